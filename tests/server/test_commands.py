"""Commands over HTTP and as client events, through a whole relay to a toy venue and back."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from attrs import evolve
from trio_websocket import WebSocketConnection, open_websocket_url

from relay.pusher.signatures import channel_auth
from relay.server.api.answers import BODY
from support.deadlines import WITHIN
from support.running import APP
from support.simulated_venue import KEYS, TOKEN, Desk, bearer, trading


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with trading() as desk:
        yield desk


def error(answer: Any) -> tuple[int, str, str]:
    """Status, code and field of a refusal."""
    body = answer.json()
    assert body["requestId"].startswith("req_")
    return answer.status_code, body["error"]["code"], (body["error"]["details"] or {}).get("field")


# Outcomes ------------------------------------------------------------------------------------------------------------


async def test_accepted_is_200_with_the_reply_as_it_is_published(desk: Desk) -> None:
    answer = await desk.post(id="c1", quantity=1.10)
    assert answer.status_code == 200
    reply = answer.json()
    assert {name: reply[name] for name in ("type", "command_id", "ok", "outcome", "result", "provider", "account")} == {
        "type": "reply",
        "command_id": "c1",
        "ok": True,
        "outcome": "accepted",
        "result": {"order_id": "o1"},
        "provider": "one",
        "account": "main",
    }
    assert desk.venue.placed[0]["quantity"] == "1.1"
    page = desk.relay.hub.history(APP["id"], "private-account.one.main", None, 10, trio.current_time())
    (published,) = [json.loads(str(event["data"])) for event in page.events]
    assert published.pop("seq") == 1
    assert published == reply


async def test_rejected_is_422_and_unknown_202(desk: Desk) -> None:
    poor = await desk.post(symbol="POOR")
    error = {"code": "rejected", "provider_code": "margin"}
    assert (poor.status_code, poor.json()["outcome"], poor.json()["error"]) == (422, "rejected", error)
    mute = await desk.post(symbol="MUTE", within=0.1)
    assert (mute.status_code, mute.json()["outcome"], mute.json()["error"]["code"]) == (202, "unknown", "deadline")
    bad = await desk.post(symbol="BAD")
    assert (bad.status_code, bad.json()["error"]["code"]) == (422, "invalid_command")
    assert "BAD is not traded" in bad.text
    assert json.dumps(TOKEN)[1:-1] not in bad.text


@pytest.mark.parametrize(("status", "expected"), [(200, 200), (400, 422), (503, 202)])
async def test_what_http_says_of_a_command(desk: Desk, status: int, expected: int) -> None:
    answer = await desk.post(command="cancel_order", order_id=str(status))
    assert answer.status_code == expected


async def test_a_lost_connection_is_unknown_and_resolved_by_the_stream(desk: Desk) -> None:
    lost = await desk.post("k1", symbol="DROP", client_order_id="mine-1")
    assert (lost.status_code, lost.json()["error"]["code"]) == (202, "disconnected")
    await desk.connected()
    with trio.fail_after(WITHIN):
        while (again := await desk.post("k1", symbol="DROP", client_order_id="mine-1")).status_code == 202:
            await trio.sleep(0.005)
    assert again.status_code == 200
    assert again.headers["idempotent-replayed"] == "true"
    reply = again.json()
    assert (reply["outcome"], reply["reconciled"], reply["result"]["order_id"]) == ("accepted", True, "o-mine-1")
    assert len(desk.venue.placed) == 1


async def test_what_the_stream_shows_in_time_makes_the_reply_a_known_one(desk: Desk) -> None:
    answer = await desk.post(symbol="SHOWN", client_order_id="mine-2", within=2)
    assert (answer.status_code, answer.json()["reconciled"]) == (200, True)


async def test_a_session_that_is_not_up_rejects(desk: Desk) -> None:
    for link in list(desk.venue.links):
        desk.venue.next_connection()
        link.close(1000)
    with trio.fail_after(WITHIN):
        while (answer := await desk.post()).status_code == 200:
            pass
    assert answer.json()["error"]["code"] in ("not_connected", "disconnected", "disconnected_before_sent")


# Idempotency ---------------------------------------------------------------------------------------------------------


async def test_the_same_key_is_one_order(desk: Desk) -> None:
    first, second = await desk.post("k"), await desk.post("k")
    assert first.content == second.content
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert error(await desk.post("k", quantity="2")) == (409, "CONFLICT", "Idempotency-Key")
    assert error(await desk.post("k", command="list_orders")) == (409, "CONFLICT", "Idempotency-Key")
    await desk.post(client_order_id="mine")
    assert error(await desk.post(client_order_id="mine", side="SELL")) == (409, "CONFLICT", "client_order_id")
    assert len(desk.venue.placed) == 2


async def test_a_repetition_waits_for_the_open_one(desk: Desk) -> None:
    answers: list[bytes] = []

    async def post() -> None:
        answers.append((await desk.post("k", symbol="MUTE", within=0.3, client_order_id="m")).content)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(post)
        await desk.venue.came.wait()
        nursery.start_soon(post)
    assert len(desk.venue.placed) == 1
    assert answers[0] == answers[1]


async def test_another_account_has_its_own_names(desk: Desk) -> None:
    await desk.post("k")
    assert (await desk.post("k", provider="bare", quantity="2")).status_code == 200
    assert len(desk.venue.placed) == 2


# Who may, and where --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("by", "members", "expected"),
    [
        ("reader", {}, (403, "FORBIDDEN", "provider")),
        ("reader", {"account": "main"}, (403, "FORBIDDEN", "account")),
        ("desk", {"provider": "two", "account": "b"}, (403, "FORBIDDEN", "account")),
        ("desk", {"provider": "three"}, (403, "FORBIDDEN", "provider")),
        ("all", {"provider": "gone"}, (404, "NOT_FOUND", "provider")),
        ("desk", {"account": "none"}, (404, "NOT_FOUND", "account")),
        ("desk", {"provider": "two"}, (400, "INVALID_PARAMS", "account")),
        ("desk", {"provider": ...}, (400, "INVALID_PARAMS", "provider")),
        ("desk", {"provider": 5}, (400, "INVALID_PARAMS", "provider")),
        ("desk", {"command": "get_quote", "symbol": "S"}, (400, "INVALID_PARAMS", "command")),
        ("desk", {"within": 0}, (400, "INVALID_PARAMS", "within")),
        ("desk", {"within": 61}, (400, "INVALID_PARAMS", "within")),
        ("desk", {"within": "soon"}, (400, "INVALID_PARAMS", "within")),
        ("desk", {"dry_run": "yes"}, (400, "INVALID_PARAMS", "dry_run")),
        ("desk", {"sied": "BUY"}, (400, "INVALID_PARAMS", "sied")),
        ("desk", {"quantity": "NaN"}, (400, "INVALID_PARAMS", "quantity")),
    ],
)
async def test_what_is_refused_is_named_and_not_begun(desk: Desk, by: str, members: Any, expected: Any) -> None:
    answer = await desk.post(by=by, **members)
    assert error(answer) == expected
    assert desk.venue.placed == []
    assert desk.relay.snapshot()["commands"]["open"] == 0


async def test_a_refusal_says_what_there_is(desk: Desk) -> None:
    said = (await desk.post(command="get_quote", symbol="S")).json()["error"]["message"]
    assert said == "provider one does not take get_quote; it takes place_order, cancel_order, list_orders, call"
    assert "may not trade on two.b" in (await desk.post(provider="two", account="b")).text
    hidden = (await desk.post(provider="two")).json()["error"]["message"]
    assert hidden == "account: must be named: provider two has a"  # of b this key knows nothing


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b"\xff", b'{"a":NaN}', b"[" * 50_000, b'{"provider":"one","provider":"two"}',
     b'{"provider":"one","command":"place_order","quantity":1e400}'],
)  # fmt: skip
async def test_bodies_that_are_no_command(desk: Desk, body: bytes) -> None:
    answer = await desk.http.post("/api/v2/commands", content=body, headers=bearer("desk"))
    assert error(answer)[:2] == (400, "INVALID_PARAMS")


async def test_who_has_no_key_too_much_to_say_or_another_method(desk: Desk) -> None:
    assert (await desk.http.post("/api/v2/commands", json={})).status_code == 401
    assert (await desk.http.get("/api/v2/commands")).status_code == 401
    huge = b" " * (BODY + 1)
    answer = await desk.http.post("/api/v2/commands", content=huge, headers=bearer("desk"))
    assert error(answer)[:2] == (413, "PAYLOAD_TOO_LARGE")
    assert (await desk.http.put("/api/v2/commands", headers=bearer("desk"))).status_code == 405
    for headers in ([("Idempotency-Key", "a"), ("Idempotency-Key", "b")], [("Idempotency-Key", "a b")]):
        both = [*bearer("desk").items(), *headers]
        body = {"provider": "one", "command": "list_orders"}
        assert error(await desk.http.post("/api/v2/commands", json=body, headers=both))[2] == "Idempotency-Key"


async def test_the_account_is_told_to_sessions_that_tell_accounts_apart(desk: Desk) -> None:
    await desk.post(account="main")
    await desk.post(provider="two", account="a")
    bare = await desk.post(provider="bare", account="Sim101")
    assert [order["account"] for order in desk.venue.placed] == [None, None, "Sim101"]
    assert bare.json()["account"] == "Sim101"


async def test_the_list_shows_a_key_what_it_may_do(desk: Desk) -> None:
    listed = (await desk.http.get("/api/v2/commands", headers=bearer("desk"))).json()["providers"]
    assert [(each["provider"], each["accounts"]) for each in listed] == [
        ("one", ["main"]),
        ("two", ["a"]),
        ("bare", []),
    ]
    commands = {each["command"]: each for each in listed[0]["commands"]}
    assert list(commands) == ["place_order", "cancel_order", "list_orders", "call"]
    side = next(member for member in commands["place_order"]["members"] if member["name"] == "side")
    assert side == {"name": "side", "type": "choice", "required": True, "values": ["BUY", "SELL"]}
    assert (await desk.http.get("/api/v2/commands", headers=bearer("reader"))).json() == {"providers": []}


async def test_a_providers_own_function_gets_the_digits(desk: Desk) -> None:
    body = b'{"provider":"one","command":"call","function":"f","arguments":{"size":1.10,"big":1e3}}'
    answer = await desk.http.post("/api/v2/commands", content=body, headers=bearer("desk"))
    assert answer.json()["result"] == {"size": "1.10", "big": 1000}


# Dry run -------------------------------------------------------------------------------------------------------------


async def test_a_dry_run_shows_what_would_be_sent_and_sends_nothing(desk: Desk) -> None:
    for _ in range(2):
        shown = (await desk.post("k", dry_run=True, id="c1")).json()
        assert (shown["dry_run"], shown["account"], shown["command"]["quantity"]) == (True, "main", "1")
        (sent,) = shown["sends"]
        assert json.loads(sent["frame"])["n"] == 1  # what the adapter counts is not counted on
    assert desk.venue.placed == []
    assert (await desk.post("k")).headers.get("idempotent-replayed") is None


async def test_a_dry_run_hides_secrets(desk: Desk) -> None:
    answer = await desk.post(command="cancel_order", order_id="200", dry_run=True)
    (sent,) = answer.json()["sends"]
    assert (sent["method"], sent["headers"], sent["body"]) == (
        "DELETE",
        {"X-Token": "[redacted]"},
        {"why": "[redacted]", "size": 1},
    )
    assert sent["url"].endswith("/orders/200?sig=%5Bredacted%5D")
    assert "token" not in answer.text.replace("X-Token", "")
    assert len(desk.venue.requests) == 0
    bad = await desk.post(symbol="BAD", dry_run=True)
    assert error(bad) == (400, "INVALID_PARAMS", "command")
    assert bad.json()["error"]["message"] == "BAD is not traded with [redacted]"


# Client events -------------------------------------------------------------------------------------------------------


class Line:
    """One subscriber over a socket."""

    def __init__(self, desk: Desk, socket: WebSocketConnection) -> None:
        self.desk, self.socket, self.socket_id = desk, socket, ""

    async def hear(self, *events: str) -> Any:
        """The next message whose event is one of these, its data decoded."""
        with trio.fail_after(WITHIN):
            while True:
                message = json.loads(await self.socket.get_message())
                if message["event"].rpartition(":")[2] in events:
                    data = message.get("data")
                    return {**message, "data": json.loads(data) if isinstance(data, str) else data}

    async def say(self, event: str, data: Any, **more: Any) -> None:
        await self.socket.send_message(json.dumps({"event": event, "data": data, **more}))

    async def join(self, channel: str, by: str | None = "desk", **auth: Any) -> Any:
        if by is not None:
            form = {"socket_id": self.socket_id, "channel_name": channel}
            answer = await self.desk.http.post("/api/v2/ws/auth", data=form, headers=bearer(by))
            assert answer.status_code == 200
            auth = answer.json()
        await self.say("pusher:subscribe", {"channel": channel, **auth})
        await self.hear("subscription_succeeded")
        return auth

    async def order(self, channel: str, **members: Any) -> None:
        order = {"command": "place_order", "symbol": "FINE", "side": "BUY", "order_type": "MARKET", "quantity": "1"}
        await self.say("client-command", {**order, **members}, channel=channel)


@pytest.fixture
async def lines(desk: Desk, nursery: trio.Nursery) -> AsyncIterator[list[Line]]:
    url = f"ws://127.0.0.1:{desk.relay.addresses[0][1]}/app/{APP['key']}?protocol=7"
    async with open_websocket_url(url) as first, open_websocket_url(url) as second:
        made = [Line(desk, socket) for socket in (first, second)]
        for line in made:
            line.socket_id = (await line.hear("connection_established"))["data"]["socket_id"]
        yield made


@pytest.mark.parametrize("channel", ["private-account.one.main", "presence-account.one.main"])
async def test_a_client_event_places_an_order_and_the_reply_is_everybodys(
    desk: Desk, lines: list[Line], channel: str
) -> None:
    trader, watcher = lines
    await trader.join(channel)
    await watcher.join(channel, "reader")
    await trader.order(channel, id="c7")
    for line in lines:
        reply = await line.hear("reply", "client-command")
        assert (reply["event"], reply["data"]["command_id"], reply["data"]["outcome"]) == ("reply", "c7", "accepted")
    await trader.order(channel, id="c7")
    again = await trader.hear("reply")
    assert "seq" not in again["data"]
    assert len(desk.venue.placed) == 1
    assert (await desk.post(id="c7")).headers["idempotent-replayed"] == "true"


async def test_who_was_not_granted_trade_is_refused(desk: Desk, lines: list[Line]) -> None:
    line, _ = lines
    channel = "private-account.one.main"
    auth = await line.join(channel, "reader")
    assert "channel_data" not in auth
    await line.order(channel)
    said = (await line.hear("error"))["data"]["message"]
    assert said == (
        'client-command: API key reader may not trade on one.main; it needs [api_keys.reader] trade = ["one.main"]'
    )
    assert desk.venue.placed == []


async def test_an_apps_server_cannot_make_a_trader_of_anybody(desk: Desk, lines: list[Line]) -> None:
    forger, trader = lines
    channel = "presence-account.one.main"
    app = desk.relay.hub.app(APP["id"])
    assert app is not None
    desk.relay.hub.replace_apps([evolve(app, accounts=("one.*",))], trio.current_time())
    data = (await trader.join(channel))["channel_data"]
    auth = channel_auth(app, forger.socket_id, channel, data)
    await forger.join(channel, None, auth=auth, channel_data=data)
    await forger.order(channel)
    assert "was not joined by an API key" in (await forger.hear("error"))["data"]["message"]
    assert desk.venue.placed == []


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"quantity": None}, "quantity: is missing; place_order needs it, or a notional"),
        ({"quantity": 0}, "quantity: must be above zero"),
        ({"quanity": 1}, "did you mean quantity?"),
        ({"account": "other"}, "account: this channel is private-account.one.main"),
        ({"provider": "two"}, "provider: this channel is"),
        ({"command": "get_quote"}, "get_quote"),
        ({"dry_run": True}, "dry_run: only POST"),
    ],
)
async def test_a_bad_client_command_is_said_to_its_sender(
    desk: Desk, lines: list[Line], members: Any, says: str
) -> None:
    line, _ = lines
    await line.join("private-account.one.main")
    await line.order("private-account.one.main", **members)
    assert says in (await line.hear("error"))["data"]["message"]
    assert desk.venue.placed == []


async def test_a_grant_that_was_taken_back_counts_at_once(desk: Desk, lines: list[Line]) -> None:
    line, _ = lines
    await line.join("private-account.one.main")
    keys = [key for key in desk.relay._keys if key.name != "desk"]
    desk.relay._keys.replace(keys)
    await line.order("private-account.one.main")
    assert "was not joined by an API key" in (await line.hear("error"))["data"]["message"]
    assert KEYS["desk"]["key"] not in str(desk.relay.snapshot())
