"""Rights: who reads an account, by what proof, for how long, and what others learn of it."""

import json
import re
import time
import tomllib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from attrs import evolve
from trio_websocket import open_websocket_url

from relay.adapter import CommandReply, Context, Known, Offer, dumps
from relay.app import Relay
from relay.auth import channel_refusal
from relay.model.channels import Stream, Topic
from relay.model.commands import Call, Command, ListAccounts, ListOrders, ListPositions, OrderHistory, TradeHistory
from relay.model.events import ACCOUNT_KINDS, Connection, Error, Staleness, Stamp
from relay.model.patterns import account_pattern, stream_pattern
from relay.plugins.manager import load_plugins
from relay.provider.catalog import provider_entries
from relay.provider.http import HttpClient
from relay.providers import for_everybody
from relay.pusher.apps import App
from relay.pusher.signatures import channel_auth, signed_query
from relay.server.api.channels import readable
from relay.settings import settings_of
from relay.settings.reference import reference
from relay.trading.service import CommandRefused, RefusalReason
from relay_crosstrade.adapter import CrossTrade
from support.api_harness import BEARER, OTHER, Rig
from support.simulated_venue import KEYS, TOKEN, Desk, bearer, document, toy_plugins, trading
from tests.server.test_commands import Line

ACCOUNT = "private-account.one.main"
PRESENCE = "presence-account.one.main"
BETA = {"id": "8", "key": "beta-key", "secret": "beta-secret-of-the-test", "client_events": True}
BETA_APP = App(id="8", key="beta-key", secrets=("beta-secret-of-the-test",))
ROOT = Path(__file__).parents[2]


def apps(**beta: Any) -> dict[str, Any]:
    main = {"id": "7", "key": "app-key", "secret": "app-secret-of-the-test", "client_events": True}
    return {"main": main, "beta": {**BETA, **beta}}


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with trading(apps=apps()) as desk:
        yield desk


@asynccontextmanager
async def line(desk: Desk, app: str = "app-key") -> AsyncIterator[Line]:
    url = f"ws://127.0.0.1:{desk.relay.addresses[0][1]}/app/{app}?protocol=7"
    async with open_websocket_url(url) as socket:
        made = Line(desk, socket)
        made.socket_id = (await made.hear("connection_established"))["data"]["socket_id"]
        yield made


async def sign_for(desk: Desk, line: Line, channel: str, by: str) -> dict[str, str]:
    form = {"socket_id": line.socket_id, "channel_name": channel}
    answer = await desk.http.post("/api/v2/ws/auth", data=form, headers=bearer(by))
    assert answer.status_code == 200, answer.text
    signed: dict[str, str] = answer.json()
    return signed


async def refused(line: Line, channel: str, **auth: str) -> str:
    await line.say("pusher:subscribe", {"channel": channel, **auth})
    told = await line.hear("subscription_error", "subscription_succeeded")
    assert told["event"] == "pusher:subscription_error", told
    assert (told["data"]["type"], told["data"]["status"]) == ("AuthError", 401)
    error: str = told["data"]["error"]
    return error


def by_secret(line: Line, channel: str, app: App = BETA_APP) -> dict[str, str]:
    member = json.dumps({"user_id": "mallory", "user_info": {}}) if channel.startswith("presence-") else None
    auth = {"auth": channel_auth(app, line.socket_id, channel, member)}
    return auth if member is None else {**auth, "channel_data": member}


def reload(desk: Desk, **tables: Any) -> None:
    """Let the relay read a changed configuration."""
    address = desk.relay._settings.providers[0].url or ""
    toy = document(_Address(address), **tables)
    desk.relay.reload(settings_of(toy, Path("test"), {}, toy_plugins().adapters(), Path.read_text))


class _Address:
    def __init__(self, ws: str) -> None:
        self.ws, self.http = ws, ws.replace("ws", "http", 1)


# The proof -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", [ACCOUNT, PRESENCE, "private-cache-account.one.main"])
async def test_an_apps_secret_opens_no_account(desk: Desk, channel: str) -> None:
    async with line(desk, "beta-key") as mallory:
        assert "/api/v2/ws/auth" in await refused(mallory, channel, **by_secret(mallory, channel))
        # What is the app's own stays the app's own.
        own = "private-room"
        await mallory.join(own, None, **by_secret(mallory, own))


@pytest.mark.parametrize("channel", [ACCOUNT, PRESENCE])
async def test_a_configuration_may_open_accounts_to_an_apps_secret_and_warns_of_it(channel: str) -> None:
    async with trading(apps=apps(accounts=["one.*"])) as desk:
        async with line(desk, "beta-key") as server:
            await server.join(channel, None, **by_secret(server, channel))
            other = channel.replace("one.main", "two.a")
            assert "/api/v2/ws/auth" in await refused(server, other, **by_secret(server, other))
        (note,) = [note for note in desk.relay._settings.notes if "apps.beta" in note]
        assert note.startswith(
            "apps.beta.accounts: whoever has this app's secret reads orders, positions and balances of one.*"
        )


@pytest.mark.parametrize("channel", [ACCOUNT, PRESENCE])
async def test_the_relays_own_proof_opens_it_for_one_socket_and_channel(desk: Desk, channel: str) -> None:
    async with line(desk) as reader, line(desk) as thief:
        signed = await reader.join(channel, "reader")
        await refused(thief, channel, **signed)
        own = await sign_for(desk, thief, "private-account.two.a", "reader")
        await refused(thief, channel, **own)


@pytest.mark.parametrize("path", ["channels/{}", "channels/{}/history", "channels/{}/users"])
async def test_the_http_api_tells_an_apps_server_nothing_of_an_account(desk: Desk, path: str) -> None:
    async with line(desk) as reader, httpx.AsyncClient(base_url=desk.http.base_url) as http:
        await reader.join(PRESENCE, "reader")
        app = App(id="7", key="app-key", secrets=("app-secret-of-the-test",))

        async def ask(path: str) -> httpx.Response:
            return await http.get(f"{path}?{signed_query(app, 'GET', path, b'', time.time())}")

        answer = await ask("/apps/7/" + path.format(PRESENCE))
        assert answer.status_code == 403
        assert "/api/v2/ws/auth" in answer.text
        assert (await ask("/apps/7/channels")).json() == {"channels": {}}


async def test_webhooks_tell_an_apps_server_nothing_of_an_account() -> None:
    async with trading(apps=apps()) as desk:
        told: list[Any] = []
        desk.relay.hub._shared = evolve(desk.relay.hub._shared, on_channel_event=told.append)
        for app_state in desk.relay.hub._by_id.values():
            app_state._shared = desk.relay.hub._shared
        async with line(desk) as reader:
            await reader.join(PRESENCE, "desk")
            await reader.join("presence-room", None, **by_secret(reader, "presence-room", _main()))
        assert {event.channel for event in told} == {"presence-room"}


def _main() -> App:
    return App(id="7", key="app-key", secrets=("app-secret-of-the-test",))


async def test_no_member_is_shown_a_proof(desk: Desk) -> None:
    async with line(desk) as watcher, line(desk) as trader:
        await watcher.join(PRESENCE, "reader")
        signed = await sign_for(desk, trader, PRESENCE, "desk")
        signature = signed["auth"].rpartition(":")[2]
        await trader.say("pusher:subscribe", {"channel": PRESENCE, **signed})
        here = await trader.hear("subscription_succeeded")
        added = await watcher.hear("member_added")
        assert here["data"]["presence"]["hash"] == {"reader": {}, "desk": {}}
        assert added["data"] == {"user_id": "desk", "user_info": {}}
        assert signature not in json.dumps([here, added])
        await trader.order(PRESENCE, id="c1")
        assert (await trader.hear("reply", "error"))["event"] == "reply"


# Revocation ----------------------------------------------------------------------------------------------------------


async def test_a_removed_key_hears_no_more_and_trades_no_more(desk: Desk) -> None:
    async with line(desk) as trader, line(desk) as other:
        for channel in (ACCOUNT, PRESENCE):
            await trader.join(channel, "desk")
        await other.join(PRESENCE, "reader")
        reload(desk, apps=apps(), api_keys={name: KEYS[name] for name in ("reader", "all")})
        told = [await trader.hear("subscription_error") for _ in range(2)]
        assert {each["channel"] for each in told} == {ACCOUNT, PRESENCE}
        assert told[0]["data"]["error"] == "API key desk is not valid any more"
        assert (await other.hear("member_removed"))["data"]["user_id"] == "desk"
        await trader.order(PRESENCE)
        assert "no current subscription" in (await trader.hear("error"))["data"]["message"]
        assert desk.venue.placed == []


async def test_a_key_under_its_old_name_is_another_key(desk: Desk) -> None:
    async with line(desk) as trader:
        await trader.join(ACCOUNT, "desk")
        reload(desk, apps=apps(), api_keys={**KEYS, "desk": {**KEYS["desk"], "key": "a new key of the desk"}})
        assert "not valid any more" in (await trader.hear("subscription_error"))["data"]["error"]


async def test_a_smaller_grant_reaches_what_is_open(desk: Desk) -> None:
    async with line(desk) as trader:
        await trader.join(ACCOUNT, "desk")
        await trader.join("private-account.two.a", "desk")
        reload(desk, apps=apps(), api_keys={**KEYS, "desk": {**KEYS["desk"], "accounts": [], "trade": ["two.a"]}})
        told = await trader.hear("subscription_error")
        assert told["channel"] == ACCOUNT
        assert told["data"]["error"].startswith(
            f"API key desk may not read {ACCOUNT}; it needs [api_keys.desk] accounts = "
        )
        await trader.order("private-account.two.a", id="c1")
        assert (await trader.hear("reply", "error"))["event"] == "reply"
        reload(desk, apps=apps(), api_keys={**KEYS, "desk": {**KEYS["desk"], "trade": []}})
        await trader.order("private-account.two.a", id="c2")
        assert "may not trade" in (await trader.hear("reply", "error"))["data"]["message"]


async def test_a_key_that_is_given_to_another_app_ends_what_it_opened_in_the_first(desk: Desk) -> None:
    async with line(desk) as trader:
        await trader.join(ACCOUNT, "desk")
        reload(desk, apps=apps(), api_keys={**KEYS, "desk": {**KEYS["desk"], "app": "beta"}})
        told = await trader.hear("subscription_error")
        assert (told["channel"], told["data"]["error"]) == (ACCOUNT, "API key desk is of another app")


async def test_a_replaced_secret_ends_what_it_signed_and_a_previous_one_does_not(desk: Desk) -> None:
    async with line(desk, "beta-key") as client:
        await client.join("private-room", None, **by_secret(client, "private-room"))
        reload(desk, apps=apps(secret="the new secret of beta", previous_secret=BETA["secret"]))
        await client.join("private-hall", None, **by_secret(client, "private-hall"))
        reload(desk, apps=apps(secret="the new secret of beta"))
        told = [await client.hear("subscription_error") for _ in range(2)]
        assert [each["channel"] for each in told] == ["private-room", "private-hall"]
        assert "secret" in told[0]["data"]["error"]


async def test_a_grant_taken_from_an_app_reaches_what_is_open() -> None:
    async with trading(apps=apps(accounts=["one.*"])) as desk, line(desk, "beta-key") as server:
        await server.join(ACCOUNT, None, **by_secret(server, ACCOUNT))
        reload(desk, apps=apps())
        assert "/api/v2/ws/auth" in (await server.hear("subscription_error"))["data"]["error"]


# One grammar ---------------------------------------------------------------------------------------------------------

PATTERN_LISTS = re.compile(r"^\s*(streams|accounts|trade) = (\[.*?\])", re.MULTILINE | re.DOTALL)
BETWEEN_TICKS = re.compile(r"`+([a-z*][a-zA-Z0-9_*-]*(?:\.[A-Za-z0-9_*=/-]+)+|[a-z]*\*)`+")
STREAMS = [
    Stream(provider, Topic(kind=kind, symbol=symbol, timeframe="1m" if kind == "candle" else None))
    for provider in ("binance", "helio", "kraken", "acme", "all")
    for kind in ("quote", "depth", "candle", "public_trade")
    for symbol in ("BTC/USDT", "EUR/USD", "ES 09-26")
] + [Stream("helio", Topic(kind="status")), Stream("binance", Topic(kind="status"))]


def documented() -> Iterator[tuple[str, str, str]]:
    """Every pattern that documentation, examples and docstrings show: its place, what it is of, its text."""
    for path in [*ROOT.glob("docs/**/*.md"), *ROOT.glob("docs/**/*.toml"), ROOT / "README.md"]:
        for key, written in PATTERN_LISTS.findall(path.read_text()):
            for text in tomllib.loads(f"x = {written}")["x"]:
                yield path.name, key, text
    for row in reference(None).split("## `[api_keys.NAME]`")[1].splitlines():
        if row.startswith("| `streams`"):
            yield from (("reference", "streams", text) for text in BETWEEN_TICKS.findall(row.split("|")[4]))
    for text in BETWEEN_TICKS.findall(Path(ROOT / "relay/model/patterns.py").read_text().split('"""')[1]):
        yield "patterns.py", "streams", text


def test_every_documented_pattern_matches_what_it_says() -> None:
    found = list(documented())
    assert {text for _, _, text in found} >= {
        "quote.*",
        "depth.binance.*",
        "status.*",
        "binance.quote",
        "binance.*",
        "acme.live",
    }
    for place, key, text in found:
        if key == "streams":
            assert any(map(stream_pattern(text).matches, STREAMS)), f"{place}: {text} matches nothing"
        else:
            provider, _, account = text.partition(".")
            assert account_pattern(text).matches(provider.replace("*", "x"), account.replace("*", "x")), (
                f"{place}: {text}"
            )


@pytest.mark.parametrize("pattern", ["quote.*", "quote.one.*", "one.quote", "one.*", "*.quote", "*"])
def test_check_the_catalog_and_the_channels_agree(pattern: str) -> None:
    wanted = document(_Address("ws://127.0.0.1:1/"))
    wanted["api_keys"] = {"key": {"key": "a key of the test", "streams": [pattern]}}
    settings = settings_of(wanted, Path("test"), {}, toy_plugins().adapters(), Path.read_text)
    (key,) = settings.api_keys
    entries = provider_entries("one", [Offer(kind="quote")], symbols=["EUR/USD"])
    assert "one.quote" in [entry.id for entry in readable(entries, key)]
    assert channel_refusal(key, "private-quote.one.EUR-USD", lambda *_: None) is None


@pytest.mark.parametrize(
    ("pattern", "symbol", "matches"),
    [
        ("quote.x.BTC-USDT", "BTC/USDT", True),
        ("x.quote.BTC/USDT", "BTC/USDT", True),
        ("quote.x.BTC-*", "BTC/USDT", True),
        ("quote.x.BTC/*", "BTC/USDT", True),
        ("quote.x.ES 09-26", "ES 09-26", True),
        ("quote.x.ES=2009=2D26", "ES 09-26", True),
        ("quote.*.BTC-USDT", "BTC-USDT", False),
        ("quote.x", "BTC/USDT", True),
        ("*.quote", "BTC/USDT", True),
        ("q*.*", "BTC/USDT", False),  # a provider whose name begins with q, as ever
        ("depth.*", "BTC/USDT", False),
        ("status.*", "BTC/USDT", False),
    ],
)
def test_a_pattern_may_name_symbols_in_either_spelling(pattern: str, symbol: str, matches: bool) -> None:
    assert stream_pattern(pattern).matches(Stream("x", Topic(kind="quote", symbol=symbol))) is matches


# Accounts that nobody configured ---------------------------------------------------------------------------------------


class Waiting(Known):
    """The commands that wait for an answer, as a session knows them."""

    def __init__(self, *waiting: Command) -> None:
        self._waiting = waiting

    def commands(self) -> tuple[Command, ...]:
        return self._waiting


def crosstrade(account: str | None, *waiting: Command) -> CrossTrade:
    options, known = {**CrossTrade.defaults(), "account": ""}, Waiting(*waiting)
    context = Context(provider="crosstrade", account=account, options=options, credentials={"key": "k"}, known=known)
    return CrossTrade(context)


def of_two_accounts(**more: Any) -> dict[str, Any]:
    rows = [
        {"account": name, "instrument": "ES 09-26", "quantity": 1, "orderId": name, **more}
        for name in ("Sim101", "Sim110")
    ]
    return {"success": True, "count": 2, "rows": rows}


@pytest.mark.parametrize("account", ["Sim101", None])
@pytest.mark.parametrize(
    ("command", "data"),
    [
        (ListAccounts(id="1", account="Sim101"), {"accounts": [{"name": "Sim101"}, {"name": "Sim110"}], "count": 2}),
        (ListPositions(id="1", account="Sim101"), {"positions": of_two_accounts()["rows"], "count": 2}),
        (ListOrders(id="1", account="Sim101"), {"orders": of_two_accounts()["rows"], "count": 2}),
        (OrderHistory(id="1", account="Sim101"), {"orders": of_two_accounts()["rows"], "count": 2}),
        (TradeHistory(id="1", account="Sim101"), {"executions": of_two_accounts()["rows"], "count": 2}),
        (Call(id="1", account="Sim101", function="GetAllOrders"), {"orders": of_two_accounts()["rows"], "count": 2}),
        (
            Call(id="1", account="Sim101", function="ListAccounts"),
            {"accounts": [{"name": "Sim101"}, {"name": "Sim110"}]},
        ),
        (
            Call(id="1", account="Sim101", function="GetAllPositions"),
            {"deep": {"positions": of_two_accounts()["rows"]}},
        ),
    ],
)
def test_an_answer_for_one_account_has_nothing_of_another(
    command: Command, data: dict[str, Any], account: str | None
) -> None:
    adapter = crosstrade(account, command)
    list(adapter.encode(command))
    told = adapter.decode(dumps({"id": "1", "data": {"success": True, **data}}))
    (reply,) = [item for item in told if isinstance(item, CommandReply)]
    assert "Sim101" in str(reply.result)
    assert "Sim110" not in str(reply.result)


def test_a_call_that_is_answered_with_another_accounts_order_is_refused() -> None:
    command = Call(id="1", account="Sim101", function="GetOrder", arguments={"orderId": "o"})
    adapter = crosstrade(None, command)
    list(adapter.encode(command))
    told = adapter.decode(
        dumps({"id": "1", "data": {"success": True, "account": "Sim110", "orderId": "o", "quantity": 7}})
    )
    (reply,) = [item for item in told if isinstance(item, CommandReply)]
    assert (reply.result, reply.error["code"]) == (None, "not_of_this_account")
    assert "Sim110" not in str(reply)


def test_an_answer_that_comes_when_its_command_is_no_longer_known_has_no_data_of_anybody() -> None:
    data = {"success": True, "orderId": "o", "orders": of_two_accounts()["rows"]}
    told = crosstrade(None).decode(dumps({"id": "1", "data": data}))
    (reply,) = [item for item in told if isinstance(item, CommandReply)]
    assert (reply.result, reply.error) == ({"order_id": "o"}, None)


BROKERS = {name: adapter for name, adapter in load_plugins().adapters().items() if adapter.commands}


@pytest.mark.parametrize("name", BROKERS)
async def test_a_key_for_one_account_sends_nothing_where_the_account_cannot_be_told(name: str) -> None:
    """Where no account is configured, a broker either carries the named account out, or takes only keys for all of it."""
    adapter = BROKERS[name]
    provider = {"adapter": name, "credentials": dict.fromkeys(adapter.credentials, "c")}
    wanted = {
        "allow_inline_secrets": True,
        "apps": {"main": {"id": "7", "key": "app-key", "secret": "app-secret-of-the-test"}},
        "api_keys": {
            "one": {"key": "key for one account", "trade": [f"{name}.Sim101"]},
            "all": {"key": "key for all accounts", "trade": [f"{name}.*"]},
        },
        "providers": {name: provider},
    }
    plugins = load_plugins()
    settings = settings_of(wanted, Path("test"), {}, plugins.adapters(), Path.read_text, plugin_tables=plugins.tables())
    async with HttpClient() as http:
        service = Relay(settings, plugins, http)._command_service
        one, all = settings.api_keys
        for command in adapter.commands:
            wire = {"provider": name, "account": "Sim101", "command": command.name, **NEEDED.get(command.name, {})}
            assert service.validate(all, wire).account == "Sim101"
            with pytest.raises(CommandRefused) as refused:
                service.validate(one, {**wire, "account": "Sim110"})
            assert refused.value.refusal is RefusalReason.FORBIDDEN
            if adapter.names_accounts:
                assert service.validate(one, wire).command.account == "Sim101"
            else:
                with pytest.raises(CommandRefused, match="login's account") as refused:
                    service.validate(one, wire)
                assert refused.value.refusal is RefusalReason.FORBIDDEN


ORDER = {"symbol": "X", "side": "BUY", "order_type": "MARKET", "quantity": "1"}
NEEDED: dict[str, dict[str, Any]] = {
    "place_order": ORDER,
    "cancel_order": {"order_id": "o"},
    "amend_order": {"order_id": "o", "quantity": "1"},
    "close_position": {"position_id": "p"},
    "amend_position": {"position_id": "p", "stop_loss": "1"},
    "get_quote": {"symbol": "X"},
    "call": {"function": "f"},
}


# What others learn -----------------------------------------------------------------------------------------------------


async def test_a_brokers_errors_reach_the_accounts_readers_and_everybody_else_learns_that_there_was_one() -> None:
    async with trading(apps=apps()) as desk, line(desk) as anyone, line(desk) as reader:
        await anyone.join("status.one", None)
        await reader.join(ACCOUNT, "reader")
        for link in desk.venue.links:
            link.send(dumps({"failed": "margin", "text": "order o-4711 of login 12345 was refused"}))
        told = (await reader.hear("error"))["data"]
        assert (told["code"], told["account"], told["message"]) == (
            "margin",
            "main",
            "order o-4711 of login 12345 was refused",
        )
        public = (await anyone.hear("error"))["data"]
        assert public["code"] == "account_error", "what an order came to is its account's business"
        assert "margin" not in json.dumps(public)
        assert "4711" not in json.dumps(public)
        assert "12345" not in json.dumps(public)


async def test_why_an_account_is_stale_is_told_to_its_readers_alone() -> None:
    stale = Staleness(event="STALE", symbols=(), of="account", reason="login 12345: margin call on o-4711")
    async with trading(apps=apps()) as desk, line(desk) as anyone, line(desk) as reader:
        await anyone.join("status.one", None)
        await reader.join(ACCOUNT, "reader")
        stamp = Stamp(provider="one", account="main", received_at="2025-01-15T10:30:00Z")
        desk.relay.publish(stale, stamp)
        desk.relay.publish(Error(code="later", message="what comes behind it"), stamp)
        assert "4711" in (await reader.hear("staleness"))["data"]["reason"]
        assert (await anyone.hear("staleness", "error"))["data"].get("code") == "later"


async def test_why_a_brokers_session_ended_is_told_to_the_accounts_readers_alone() -> None:
    async with trading(apps=apps()) as desk, line(desk) as anyone:
        await anyone.join("status.one", None)
        for link in desk.venue.links:
            link.close(4003, "login 12345: margin call on o-4711")
        while (public := (await anyone.hear("connection"))["data"])["event"] == "CONNECTED":
            pass
        assert public["reason"] == "closed with 4003"
        assert public["account"] != "main"


REFUSALS = {
    "preparing failed, HTTP status 401 to POST https://broker.test/auth: {login 12345}": "preparing failed, HTTP status 401",
    "closed with 4003: login 12345": "closed with 4003",
    "authorization refused: login 12345": "refused by the provider",
    "connection 2 of 3: closed with 1008: login 12345": "connection 2 of 3: closed with 1008",
    "nothing received for 30 s": "nothing received for 30 s",
}


@pytest.mark.parametrize(("said", "public"), REFUSALS.items())
@pytest.mark.parametrize("upstream", [None, True])
def test_of_an_outage_everybody_learns_the_relays_own_words(said: str, public: str, upstream: bool | None) -> None:
    got: list[tuple[Any, str | None]] = []
    stamp = Stamp(provider="desk", account="main", received_at="2025-01-15T10:30:00Z")
    tell = for_everybody(lambda event, stamp, now: got.append((event, stamp.account)), "main", "1")
    tell(Connection(event="FAILED", reason=said, error="12345 is closed", upstream=upstream), stamp, 0.0)
    (told, by), (error, of) = got
    assert (told.reason, told.error, by) == (public, None, "1")
    assert (error.account, error.message, of) == ("main", f"{said}: 12345 is closed", "main")
    got.clear()
    why = f"no session with desk: {said}"
    for of in ("quote", "account"):
        tell(Staleness(event="STALE", symbols=(), of=of, reason=why, session=True), stamp, 0.0)
    told, full = (event.reason for event, _ in got)
    assert told == "ended by the provider" if "refused" in public else f"no session with desk: {public}"
    assert full == why


async def test_a_brokers_error_does_not_repeat_what_is_secret() -> None:
    async with trading(apps=apps()) as desk, line(desk) as anyone, line(desk) as reader:
        await anyone.join("status.one", None)
        await reader.join(ACCOUNT, "reader")
        for link in desk.venue.links:
            link.send(dumps({"failed": f"bad key {TOKEN}", "text": f"{TOKEN} has expired"}))
        for each in (reader, anyone):
            told = json.dumps((await each.hear("error"))["data"])
            assert TOKEN not in told
            assert ("redacted" in told) is (each is reader)


async def test_status_and_metrics_name_an_account_only_to_whom_it_is_granted() -> None:
    keys = {**KEYS, "two": {"key": "key of the second provider", "accounts": ["two.a"]}}
    async with trading(apps=apps(), api_keys=keys) as desk, line(desk) as reader:
        await reader.join(ACCOUNT, "reader")
        await reader.join("private-account.two.b", "reader")
        await reader.join("private-room-of-alice", None, **by_secret(reader, "private-room-of-alice", _main()))

        async def ask(path: str, key: str | None) -> str:
            headers = {} if key is None else {"Authorization": f"Bearer {keys[key]['key']}"}
            answer = await desk.http.get(path, headers=headers)
            assert answer.status_code == 200
            return answer.text

        for path in ("/api/v2/status", "/metrics"):
            for key, secrets in {
                None: ("main", '"a"', '"b"', "alice"),
                "two": ("main", '"b"', "alice", ".main", "two.b"),
                "reader": ("alice",),
            }.items():
                text = await ask(path, key)
                apart = text.replace('"main"}', "").replace("apps.main", "").replace("remain", "")
                for secret in secrets:
                    assert secret not in apart, f"{path} tells {secret} to {key}"
        assert '"account":"main"' in await ask("/api/v2/status", "reader")
        assert 'account="main"' in await ask("/metrics", "reader")
        told = json.loads(await ask("/api/v2/status", "two"))
        assert [(each["provider"], each["account"], each["state"]) for each in told["sessions"]] == [
            ("one", None, "CONNECTED"), ("two", "a", "CONNECTED"), ("two", None, "CONNECTED"), ("bare", None, "CONNECTED"),
        ]  # fmt: skip
        assert "main" not in (await desk.http.get("/readyz")).text


# The bootstrap -------------------------------------------------------------------------------------------------------


def wrong(stream: Stream) -> str | None:
    """What the socket would say: the symbols of the harness, and nobody has signals."""
    if stream.topic.kind == "signal":
        return "no provider has signals"
    return "EURUSD is written EUR/USD here" if stream.topic.symbol == "EURUSD" else None


@pytest.mark.parametrize("stream", ["helio.quote", "all.quote"])
async def test_the_bootstrap_gives_no_channel_that_the_socket_refuses(stream: str) -> None:
    rig = Rig(refusal=wrong)
    async with rig.http:
        asked = {"subscriptions": [{"stream": stream, "filter": {"symbol": "EURUSD"}}]}
        answer = await rig.http.post("/api/v2/ws/session", json=asked, headers=BEARER)
        assert answer.status_code == 400
        assert answer.json()["error"]["details"] == {"field": "subscriptions[0].filter.symbol"}
        assert "EUR/USD" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("refusal", "channel"), [(wrong, "alpha.signalFeedGlobal"), (lambda stream: None, "signal.all.global")]
)
async def test_the_sdks_first_question_asks_a_provider_only_for_what_it_has(refusal: Any, channel: str) -> None:
    rig = Rig(refusal=refusal)
    async with rig.http:
        asked = {"subscriptions": [{"stream": "alpha.signalFeedGlobal", "filter": {}}]}
        (given,) = (await rig.http.post("/api/v2/ws/session", json=asked, headers=BEARER)).json()["subscriptions"]
        assert (given["channel"], given["event"]) == (channel, "signal")


#: Kinds that a broker does not stream: the relay asks for them, and a golden file has what was streamed.
POLLED = {"alpaca": {"account", "position"}}


@pytest.mark.parametrize(
    "name", [name for name, adapter in load_plugins().adapters().items() if adapter.commands or name == "shuriken"]
)
def test_the_catalog_offers_only_what_an_accounts_channel_carries(name: str) -> None:
    adapter = load_plugins().adapters()[name]
    golden = (ROOT / f"tests/fixtures/{name}.golden.jsonl").read_text()
    carried = {kind for kind in ACCOUNT_KINDS if f'"type":"{kind}"' in golden or f'"type": "{kind}"' in golden}
    expected = carried | ({"reply"} if adapter.commands else set()) | POLLED.get(name, set())
    entries = provider_entries(name, adapter.offers, accounts=["main"])
    assert {entry.kind for entry in entries if entry.kind in ACCOUNT_KINDS} == expected


@pytest.mark.parametrize("named", ["4", "otherkey"])
async def test_a_request_names_its_app(named: str) -> None:
    rig = Rig()
    async with rig.http:
        answer = await rig.http.post("/api/v2/ws/session", json={"subscriptions": [], "app": named}, headers=BEARER)
        connection = answer.json()["connection"]
        assert connection["appKey"] == OTHER.key
        subscriber = rig.connect(app=OTHER)
        form = {"socket_id": subscriber.socket_id, "channel_name": "private-account.helio.demo"}
        signed = (await rig.http.post(connection["authEndpoint"], data=form, headers=BEARER)).json()
        subscriber.say("pusher:subscribe", {"channel": form["channel_name"], **signed})
        assert [message["event"] for message in subscriber.heard()] == ["pusher_internal:subscription_succeeded"]
        assert (await rig.http.post("/api/v2/ws/auth", data={**form, "app": named}, headers=BEARER)).json() == signed
        # Of the first app's it is not.
        first = rig.connect()
        first.say("pusher:subscribe", {"channel": form["channel_name"], **signed})
        assert [message["event"] for message in first.heard()] == ["pusher:subscription_error"]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("session", {"subscriptions": [], "ap": "4"}, "ap"),
        ("session", {"subscriptions": [], "app": "99"}, "app"),
        ("session", {"subscriptions": [], "app": 4}, "app"),
        ("session", {"subscriptions": [{"stream": "helio.status", "filters": {}}]}, "subscriptions[0].filters"),
        ("auth", {"socket_id": "1.2", "channel_name": "private-account.helio.demo", "ap": "4"}, "ap"),
        ("auth", {"socket_id": "1.2", "channel_name": "private-account.helio.demo", "app": "99"}, "app"),
    ],
)
async def test_what_a_request_does_not_have_is_refused(path: str, body: dict[str, Any], field: str) -> None:
    rig = Rig()
    async with rig.http:
        answer = await rig.http.post(f"/api/v2/ws/{path}", json=body, headers=BEARER)
        assert answer.status_code == 400
        assert answer.json()["error"]["details"] == {"field": field}


async def test_a_refused_command_says_which_one_and_why(desk: Desk) -> None:
    async with line(desk) as trader:
        await trader.join(ACCOUNT, "desk")
        await trader.order(ACCOUNT, id="c1", quantity="0")
        told = (await trader.hear("error"))["data"]
        expected = {"code": 4303, "id": "c1", "reason": "invalid", "field": "quantity", "channel": ACCOUNT}
        assert {name: told[name] for name in expected} == expected
    async with line(desk) as reader:
        await reader.join(ACCOUNT, "reader")
        await reader.order(ACCOUNT, id="c2")
        told = (await reader.hear("error"))["data"]
        assert (told["id"], told["reason"]) == ("c2", "forbidden")
