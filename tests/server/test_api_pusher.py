"""The Pusher HTTP API over a real hub."""

import json
from collections.abc import AsyncIterator

import pytest
import trio

from relay.pusher.apps import App, Limits
from relay.pusher.http_api import ApiError
from relay.pusher.signatures import channel_auth, md5_hex, request_string, sign, signed_query, user_auth
from support.api_harness import APP, BEARER, NOW, OTHER, Exchange, Rig

VECTOR_BODY = b'{"name":"foo","channels":["project-3"],"data":"{\\"some\\":\\"data\\"}"}'
VECTOR = (
    "/apps/3/events?auth_key=278d425bdf160c739803&auth_timestamp=1353088179&auth_version=1.0"
    "&body_md5=ec365a775a4cd0599faeb73354201b6f"
    "&auth_signature=da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c"
)
EVENT = b'{"name":"e","channel":"c","data":"d"}'


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    async with rig.http:
        yield rig


def presence(rig: Rig, channel: str, user: str, app: App = APP) -> None:
    subscriber = rig.connect(app=app)
    data = json.dumps({"user_id": user})
    auth = channel_auth(app, subscriber.socket_id, channel, data)
    subscriber.say("pusher:subscribe", {"channel": channel, "auth": auth, "channel_data": data})


async def test_the_worked_example_of_the_reference_is_accepted_and_delivered(rig: Rig) -> None:
    subscriber = rig.connect("project-3")
    answer = await rig.http.post(VECTOR, content=VECTOR_BODY)
    assert (answer.status_code, answer.content) == (200, b"{}")
    assert answer.headers["content-type"] == "application/json"
    assert subscriber.heard() == [{"event": "foo", "channel": "project-3", "data": '{"some":"data"}'}]


async def test_an_event_goes_to_all_channels_but_not_to_the_named_socket(rig: Rig) -> None:
    one, two = rig.connect("a"), rig.connect("b")
    body = json.dumps({"name": "e", "channels": ["a", "b"], "data": "d", "socket_id": one.socket_id}).encode()
    assert (await rig.signed("POST", "/apps/3/events", body)).content == b"{}"
    assert one.heard() == []
    assert [message["channel"] for message in two.heard()] == ["b"]


async def test_apps_do_not_hear_each_other(rig: Rig) -> None:
    mine, other = rig.connect("c"), rig.connect("c", app=OTHER)
    await rig.signed("POST", "/apps/4/events", EVENT, app=OTHER)
    assert (len(mine.heard()), len(other.heard())) == (0, 1)


async def test_info_is_told_of_the_triggered_channels(rig: Rig) -> None:
    rig.connect("c")
    body = b'{"name":"e","channels":["c","d"],"data":"d","info":"subscription_count"}'
    answer = await rig.signed("POST", "/apps/3/events", body)
    assert answer.json() == {"channels": {"c": {"subscription_count": 1}, "d": {"subscription_count": 0}}}


async def test_a_batch_is_published_in_order_or_not_at_all(rig: Rig) -> None:
    subscriber = rig.connect("c")
    events = [{"name": f"e{n}", "channel": "c", "data": "d"} for n in range(3)]
    answer = await rig.signed("POST", "/apps/3/batch_events", json.dumps({"batch": events}).encode())
    assert answer.content == b"{}"
    assert [message["event"] for message in subscriber.heard()] == ["e0", "e1", "e2"]
    events[2]["channel"] = "quote.helio.EUR-USD"
    refused = await rig.signed("POST", "/apps/3/batch_events", json.dumps({"batch": events}).encode())
    assert refused.status_code == 403
    assert subscriber.heard() == []


async def test_the_deprecated_form_takes_its_name_from_the_query(rig: Rig) -> None:
    subscriber = rig.connect("c")
    answer = await rig.signed("POST", "/apps/3/channels/c/events", b'{"x":1}', {"name": "e"})
    assert answer.content == b"{}"
    assert [(m["event"], m["data"]) for m in subscriber.heard()] == [("e", '{"x":1}')]


async def test_channels_are_listed(rig: Rig) -> None:
    assert (await rig.signed("GET", "/apps/3/channels")).content == b'{"channels":{}}'
    rig.connect("c")
    presence(rig, "presence-x", "u1")
    presence(rig, "presence-x", "u1")
    assert (await rig.signed("GET", "/apps/3/channels")).json() == {"channels": {"c": {}, "presence-x": {}}}
    query = {"filter_by_prefix": "presence-", "info": "user_count"}
    answer = await rig.signed("GET", "/apps/3/channels", params=query)
    assert answer.json() == {"channels": {"presence-x": {"user_count": 1}}}


async def test_a_channel_is_described(rig: Rig) -> None:
    rig.connect("c")
    answer = await rig.signed("GET", "/apps/3/channels/c", params={"info": "subscription_count"})
    assert answer.json() == {"occupied": True, "subscription_count": 1}
    await rig.signed("POST", "/apps/3/events", b'{"name":"e","channel":"cache-c","data":"d"}')
    rig.now += 10
    cached = await rig.signed("GET", "/apps/3/channels/cache-c", params={"info": "cache"})
    assert cached.json() == {"occupied": False, "cache": {"data": "d", "ttl": 1790}}


async def test_users_of_a_presence_channel(rig: Rig) -> None:
    presence(rig, "presence-x", "u1")
    presence(rig, "presence-x", "u2")
    answer = await rig.signed("GET", "/apps/3/channels/presence-x/users")
    assert answer.json() == {"users": [{"id": "u1"}, {"id": "u2"}]}
    assert (await rig.signed("GET", "/apps/3/channels/presence-none/users")).json() == {"users": []}


@pytest.mark.parametrize("form", ["/apps/3/users/{}/terminate_connections", "/users/{}/terminate_connections"])
@pytest.mark.parametrize("user", ["u1", "a@b;c=d,e"])
async def test_a_user_is_addressed_and_terminated_whatever_its_id(rig: Rig, form: str, user: str) -> None:
    subscriber = rig.connect()
    data = json.dumps({"id": user})
    auth = user_auth(APP, subscriber.socket_id, data)
    subscriber.say("pusher:signin", {"auth": auth, "user_data": data})
    subscriber.heard()
    path = form.format("".join(f"%{byte:02X}" for byte in user.encode()))
    query = signed_query(APP, "POST", path, b"", NOW)
    answer = await rig.http.post(f"{path}?{query}")
    assert (answer.status_code, answer.content) == (200, b"{}")
    assert subscriber.heard() == [{"close": 4009}]


async def test_history_pages_and_says_when_it_is_gone(rig: Rig) -> None:
    for n in range(3):
        await rig.signed("POST", "/apps/3/events", json.dumps({"name": f"e{n}", "channel": "c", "data": "d"}).encode())
    newest = (await rig.signed("GET", "/apps/3/channels/c/history", params={"limit": "2"})).json()
    assert [event["event"] for event in newest["events"]] == ["e1", "e2"]
    assert newest["seq"] == 3
    query = {"epoch": newest["epoch"], "after_seq": "0", "limit": "2"}
    page = (await rig.signed("GET", "/apps/3/channels/c/history", params=query)).json()
    assert [event["seq"] for event in page["events"]] == [1, 2]
    assert page["more"] is True
    gone = await rig.signed("GET", "/apps/3/channels/c/history", params={**query, "epoch": "other"})
    assert gone.status_code == 410
    assert gone.json()["reason"] == "epoch_changed"
    assert gone.json()["epoch"] == newest["epoch"]


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "params", "status", "says"),
    [
        ("POST", "/apps/3/events", b"{", {}, 400, "JSON"),
        ("POST", "/apps/3/events", b"[]", {}, 400, "object"),
        ("POST", "/apps/3/events", b'{"name":"e","data":"d"}', {}, 400, "channel"),
        ("POST", "/apps/3/events", b'{"name":"e","channel":"c"}', {}, 400, "data"),
        ("POST", "/apps/3/events", b'{"name":"e","channel":"c","data":{}}', {}, 400, "data"),
        ("POST", "/apps/3/events", b'{"name":"e","channel":"c d","data":""}', {}, 400, "channel"),
        ("POST", "/apps/3/events", b'{"name":"e","channel":"c","data":"","socket_id":"x"}', {}, 400, "socket_id"),
        ("POST", "/apps/3/events", b'{"name":"pusher:e","channel":"c","data":""}', {}, 400, "reserved"),
        ("POST", "/apps/3/events", b'{"name":"e","channel":"c","data":"%b"}' % (b"x" * 10_241), {}, 413, "data"),
        ("POST", "/apps/3/events", b" " * 20_001, {}, 413, "20000"),
        ("POST", "/apps/3/events", b'{"name":"quote","channel":"quote.helio.X","data":""}', {}, 403, "quote.helio.X"),
        ("POST", "/apps/3/batch_events", json.dumps({"batch": [{}] * 11}).encode(), {}, 400, "name"),
        ("GET", "/apps/3/channels", b"", {"info": "user_count"}, 400, "presence-"),
        ("GET", "/apps/3/channels/c", b"", {"info": "user_count"}, 400, "user_count"),
        ("GET", "/apps/3/channels/c/users", b"", {}, 400, "presence"),
        ("GET", "/apps/3/channels/c/history", b"", {"epoch": "e"}, 400, "after_seq"),
        ("GET", "/apps/3/channels/c/history", b"", {"limit": "0"}, 400, "limit"),
        ("GET", "/apps/3/events", b"", {}, 405, "POST"),
        ("POST", "/apps/3/channels", b"", {}, 405, "GET"),
        ("GET", "/apps/3/nothing", b"", {}, 404, "path"),
        ("GET", "/apps/3", b"", {}, 404, "path"),
        ("GET", "/apps/9/channels", b"", {}, 404, "'9'"),
        ("GET", "/users/u/other", b"", {}, 404, "path"),
    ],
)
async def test_a_signed_request_that_is_wrong_is_told_why(
    rig: Rig, method: str, path: str, body: bytes, params: dict[str, str], status: int, says: str
) -> None:
    answer = await rig.signed(method, path, body, params)
    assert answer.status_code == status, answer.text
    assert answer.json()["status"] == status
    assert says in answer.json()["error"]
    assert answer.headers.get("allow") == (says if status == 405 else None)


def resigned(query: dict[str, str], path: str = "/apps/3/channels") -> str:
    """The query with a signature that is right for it, whatever else is wrong with it."""
    signature = sign(APP.secret, request_string("GET", path, query.items()))
    return "&".join(f"{name}={value}" for name, value in {**query, "auth_signature": signature}.items())


GOOD = {"auth_key": APP.key, "auth_timestamp": str(int(NOW)), "auth_version": "1.0"}


@pytest.mark.parametrize(
    ("query", "status", "says"),
    [
        ("", 401, "auth_key"),
        (resigned({**GOOD, "auth_timestamp": str(int(NOW) - 601)}), 401, "auth_timestamp"),
        (resigned({**GOOD, "auth_timestamp": str(int(NOW) + 601)}), 401, "auth_timestamp"),
        (resigned({**GOOD, "auth_timestamp": "now"}), 401, "auth_timestamp"),
        (resigned({**GOOD, "auth_version": "2.0"}), 401, "auth_version"),
        (resigned({**GOOD, "auth_key": OTHER.key}), 401, "auth_key"),
        (resigned({**GOOD, "body_md5": md5_hex(b"other")}), 401, "body_md5"),
        (resigned(GOOD) + "&info=x", 401, "auth_signature"),
        (resigned(GOOD)[:-1], 401, "auth_signature"),
        (resigned(GOOD, "/apps/3/channels/c"), 401, "auth_signature"),
        (resigned(GOOD) + "&auth_key=" + APP.key, 400, "twice"),
        (resigned({**GOOD, "info": "a"}) + "&info=b", 400, "twice"),
        (signed_query(OTHER, "GET", "/apps/3/channels", b"", NOW), 401, "auth_key"),
    ],
)
async def test_a_signature_that_proves_nothing_is_401(rig: Rig, query: str, status: int, says: str) -> None:
    answer = await rig.http.get(f"/apps/3/channels?{query}")
    assert answer.status_code == status
    assert says in answer.json()["error"]


async def test_an_empty_bodys_md5_is_accepted_as_the_python_library_sends_it(rig: Rig) -> None:
    answer = await rig.http.get(f"/apps/3/channels?{resigned({**GOOD, 'body_md5': md5_hex(b'')})}")
    assert answer.status_code == 200


async def test_another_apps_signature_opens_no_app(rig: Rig) -> None:
    assert (await rig.signed("GET", "/apps/3/channels", app=OTHER)).status_code == 401
    unknown = App(id="9", key="nobody", secrets=("s",))
    assert (await rig.signed("POST", "/users/u1/terminate_connections", app=unknown)).status_code == 401


async def test_a_disabled_app_is_403(rig: Rig) -> None:
    disabled = rig.apps[2]
    assert (await rig.signed("GET", "/apps/5/channels", app=disabled)).status_code == 403


async def test_escaped_paths_are_verified_as_they_were_sent(rig: Rig) -> None:
    rig.connect("a,b")
    query = signed_query(APP, "GET", "/apps/3/channels/a,b", b"", NOW)
    assert (await rig.http.get(f"/apps/3/channels/a%2Cb?{query}")).json() == {"occupied": True}
    raw = signed_query(APP, "GET", "/apps/3/channels/a%2Cb", b"", NOW)
    assert (await rig.http.get(f"/apps/3/channels/a%2Cb?{raw}")).json() == {"occupied": True}
    broken = signed_query(APP, "GET", "/apps/3/channels/%ff", b"", NOW)
    assert (await rig.http.get(f"/apps/3/channels/%ff?{broken}")).status_code == 400
    slash = signed_query(APP, "GET", "/apps/3/channels/a%2Fusers", b"", NOW)
    assert (await rig.http.get(f"/apps/3/channels/a%2Fusers?{slash}")).status_code == 400


#: The query that signs a body, which need not have come yet.
SIGNED = signed_query(APP, "POST", "/apps/3/events", b"{}", NOW)


async def test_a_body_is_counted_while_it_comes(rig: Rig) -> None:
    endless = Exchange(body=b"x" * 1000, more_body=True)
    await endless.ask(rig, "POST", "/apps/3/events", SIGNED)
    assert endless.status == 413
    assert endless.reads == 21


async def test_a_client_that_leaves_in_the_middle_is_no_fault_of_ours(rig: Rig) -> None:
    leaving = Exchange(type="http.disconnect")
    await leaving.ask(rig, "POST", "/apps/3/events", SIGNED)
    assert leaving.status == 400


@pytest.mark.usefixtures("autojump_clock")
async def test_a_body_that_does_not_come_is_408() -> None:
    rig = Rig()

    async def stalling() -> AsyncIterator[bytes]:
        yield b"{"
        await trio.sleep_forever()

    async with rig.http:
        assert (await rig.http.post(f"/apps/3/events?{SIGNED}", content=stalling())).status_code == 408


async def test_events_per_second_are_limited_per_app() -> None:
    slow = App(id="3", key="k", secrets=("s",), limits=Limits(events_per_second=2))
    rig = Rig(apps=[slow, OTHER])
    async with rig.http:
        answers = [await rig.signed("POST", "/apps/3/events", EVENT, app=slow) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert "events_per_second" in answers[2].json()["error"]
        assert answers[2].headers["retry-after"] == "1"
        assert (await rig.signed("POST", "/apps/4/events", EVENT, app=OTHER)).status_code == 200
        rig.now += 0.5
        assert (await rig.signed("POST", "/apps/3/events", EVENT, app=slow)).status_code == 200


async def test_a_bearer_key_is_no_signature(rig: Rig) -> None:
    assert (await rig.http.get("/apps/3/channels", headers=BEARER)).status_code == 401


def test_no_refusal_can_have_status_200() -> None:
    assert ApiError(401, "x").body == b'{"error":"x","status":401}'


async def test_pages_of_history_and_channels_have_a_price(rig: Rig) -> None:
    rig.hub.budgets.take("app 3", 1e6, rig.now)
    for path in ("/apps/3/channels", "/apps/3/channels/x/history", "/apps/3/channels/presence-x/users"):
        answer = await rig.signed("GET", path)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert "costs.api_rate" in answer.text
    rig.now += 60
    assert (await rig.signed("GET", "/apps/3/channels")).status_code == 200
