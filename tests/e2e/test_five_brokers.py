"""One scenario through all five brokers, each a simulator behind a whole relay: the events are the same for all of them.

An application subscribes to a market stream, an account and the session's status, trades by HTTP, loses the provider and
sees it come back. What it heard is folded to words (`Scenario.steps`), because some of it is not the scenario's:

- market data, money and the profit of a position that did not change otherwise are repeated as often as prices move: a
  phase names them at most once, and last;
- an HTTP answer and the stream come by different ways: a phase names the reply first, wherever it came in between;
- a fill is two facts, the order as it is now and the trade, and which comes first is the provider's.

A provider that differs says so in its README: `DIFFERENCES` quotes it, and a test looks the words up there.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal, InvalidOperation
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import attrs
import httpx
import pytest
import trio

from relay.adapter import Adapter, Backoff
from relay.app import Relay
from relay.demo import demo, provider_table
from relay.model.channels import Stream, Topic, channel_name
from relay.model.commands import PlaceOrder
from relay.model.events import Event, Stamp
from relay.plugins.hookspecs import Tap, hookimpl
from relay.plugins.manager import load_plugins
from relay.provider import liveness
from relay.pusher.apps import App
from relay.settings import DEMO_API_KEY, DEMO_APP_ID, DEMO_KEY, DEMO_SECRET
from relay.testing.market import Market
from relay.testing.simulator import Drop, Simulator
from relay.testing.subscriber import Subscriber
from relay_shuriken.chain import BONK
from support.deadlines import WITHIN
from support.faulty import OUR_APP, VENUES
from support.meanings import rows, said_by
from support.running import API_KEY, port_of, running_relay

ADAPTERS = Path(__file__).parents[2] / "adapters"
#: Seconds between two moves of a simulated market.
EVERY = 0.05
#: So many market events behind a phase's last one, whatever a provider still had to say of it has been said.
SETTLED = 3
#: The most seconds that a command may have for its answer: one that comes late on a busy machine is an answer.
PATIENT = 60

CREATED, FILLED = "order ORDER_CREATED OPEN", "order ORDER_FILLED FILLED"
ACCEPTED, REJECTED, REFUSED, FILL, MONEY = "reply accepted", "reply rejected", "refused", "trade TRADE_FILLED", "money"
LOST = ("connection RECONNECTING", "connection CONNECTED")

#: What is heard, by phase.
SEQUENCE: Mapping[str, tuple[str, ...]] = {
    "log in and stream": ("connection CONNECTED", "quote", MONEY),
    "buy": (ACCEPTED, CREATED, FILLED, FILL, "position POSITION_OPENED", MONEY),
    "bid below the market": (ACCEPTED, CREATED),
    "amend": (ACCEPTED, "order ORDER_MODIFIED OPEN"),
    "cancel": (ACCEPTED, "order ORDER_CANCELLED CANCELLED"),
    "buy beyond the margin": (REJECTED, "order ORDER_REJECTED REJECTED"),
    "close a part": (ACCEPTED, CREATED, FILLED, FILL, "position POSITION_MODIFIED", MONEY),
    "close": (ACCEPTED, CREATED, FILLED, FILL, "position POSITION_CLOSED", MONEY),
    "lose the connection": (*LOST, "gap quote none", "gap account replay", "quote"),
}


class Differs:
    """A provider's own form of a phase, and the words of its README that say why."""

    def __init__(self, steps: tuple[str, ...], *why: str) -> None:
        self.steps, self.why = steps, why


_PENDING = "| 1 OPEN_REQUEST | order PENDING | order PENDING |"
_NO_FILL = "A record names no fill, so there is no `trade` event."
_ONE_TICKET = "One ticket (`order`) is first an order and then a position of the same id."
_NOTICE = "| `n` | data, then code | notification | `notification` with data |"
_TAKEN = "An order of yours is published as `ORDER_CREATED` with status PENDING as soon as `PlaceOrder` was accepted"
_CLOSING = (
    "`ClosePosition` does not name the order it makes, so this order is published, as filled, when its fill names it."
)
_NO_ORDER = "A refused order has no ticket: there is no `order` event of it."
_REFUSED_RPC = "An order that is refused has no id: there is no `order` event of it."
_PART = "The part of a position that is closed gets a ticket of its own, which is published as POSITION_CLOSED."
_STREAMS_ONLY = "It has no quotes and takes no commands."
DIFFERENCES: Mapping[str, Mapping[str, Differs]] = {
    "helio": {},
    "tektii": {},
    "scaletrade": {
        "buy": Differs(
            (ACCEPTED, "order ORDER_CREATED PENDING", FILLED, "position POSITION_OPENED", "notification", MONEY),
            _PENDING, _NO_FILL, _NOTICE,
        ),
        "bid below the market": Differs((ACCEPTED, "order ORDER_CREATED PENDING", "order ORDER_MODIFIED OPEN"), _PENDING),
        "amend": Differs((ACCEPTED, "notification", "order ORDER_MODIFIED OPEN"), "| 7, 10 to 16, 19 and any other | whole |"),
        "cancel": Differs(
            (ACCEPTED, "order ORDER_MODIFIED PENDING_CANCEL", "order ORDER_CANCELLED CANCELLED"),
            "| 8 DELETE_REQUEST, 9 CANCEL_REQUEST | whole | order PENDING_CANCEL |",
        ),
        "buy beyond the margin": Differs((REJECTED,), _NO_ORDER),
        "close a part": Differs(
            (ACCEPTED, "notification", "position POSITION_CLOSED", "notification", "position POSITION_MODIFIED", MONEY),
            _PART, _NO_FILL, _NOTICE,
        ),
        "close": Differs(  # no other order: the position's own ticket is closed
            (ACCEPTED, "notification", "position POSITION_CLOSED", "notification", MONEY),
            _ONE_TICKET, _NO_FILL, _NOTICE,
        ),
    },
    "shuriken": {
        "log in and stream": Differs(("connection CONNECTED", "public_trade"), _STREAMS_ONLY),
        **{phase: Differs((REFUSED,), _STREAMS_ONLY) for phase in list(SEQUENCE)[1:-1]},
        "lose the connection": Differs((*LOST, "gap public_trade none", "gap account none", "public_trade"), _STREAMS_ONLY),
    },
    "crosstrade": {
        "buy": Differs((ACCEPTED, "order ORDER_CREATED PENDING", FILLED, FILL, "position POSITION_OPENED", MONEY), _TAKEN),
        "bid below the market": Differs((ACCEPTED, "order ORDER_CREATED PENDING", "order ORDER_MODIFIED OPEN"), _TAKEN),
        "buy beyond the margin": Differs((REJECTED,), _REFUSED_RPC),
        "close a part": Differs((ACCEPTED, FILLED, FILL, "position POSITION_MODIFIED", MONEY), _CLOSING),
        "close": Differs((ACCEPTED, FILLED, FILL, "position POSITION_CLOSED", MONEY), _CLOSING),
    },
}  # fmt: skip


class Traded(NamedTuple):
    """The symbol and quantity traded, and the prices of an order that rests."""

    market: Topic
    quantity: str = "1"
    part: str = "1"
    bid: str = "1"
    better: str = "2"


TRADED = {
    "helio": Traded(Topic(kind="quote", symbol="EUR/USD"), "10000", "4000", "1.05000", "1.06000"),
    "tektii": Traded(Topic(kind="quote", symbol="AAPL"), "10", "4", "100.00", "101.00"),
    "scaletrade": Traded(Topic(kind="quote", symbol="EUR/USD"), "10", "4", "1.05000", "1.06000"),
    "shuriken": Traded(Topic(kind="public_trade", symbol=BONK)),
    "crosstrade": Traded(Topic(kind="quote", symbol="ES 09-26"), "2", "1", "5000.00", "5100.00"),
}


def _facts(traded: Traded) -> Mapping[str, Mapping[str, Mapping[str, str]]]:
    """The last order, fill and position of a phase for every broker, with each member that it sends."""
    whole, part = traded.quantity, traded.part
    rest, limit = str(int(whole) - int(part)), {"side": "BUY", "order_type": "LIMIT", "quantity": whole}
    sold = {"side": "SELL", "order_type": "MARKET", "status": "FILLED", "remaining_quantity": "0"}
    none = {"filled_quantity": "0", "remaining_quantity": whole}
    return {
        "buy": {
            "order": {**limit, "order_type": "MARKET", "filled_quantity": whole, "remaining_quantity": "0",
                      "status": "FILLED", "client_order_id": "mine-1"},
            "trade": {"side": "BUY", "quantity": whole},
            "position": {"side": "LONG", "quantity": whole},
        },
        "bid below the market": {
            "order": {**limit, **none, "limit_price": traded.bid, "status": "OPEN", "client_order_id": "mine-2"},
        },
        "amend": {"order": {**limit, **none, "limit_price": traded.better, "status": "OPEN"}},
        "cancel": {"order": {**limit, **none, "limit_price": traded.better, "status": "CANCELLED"}},
        "close a part": {
            "order": {**sold, "quantity": part, "filled_quantity": part},
            "trade": {"side": "SELL", "quantity": part},
            "position": {"side": "LONG", "quantity": rest},
        },
        "close": {
            "order": {**sold, "quantity": rest, "filled_quantity": rest},
            "trade": {"side": "SELL", "quantity": rest},
            "position": {"side": "LONG", "quantity": "0"},
        },
    }  # fmt: skip


#: Members that an event may lack although the provider says them elsewhere, with the words of its documentation.
UNSAID = {"scaletrade": {"order": {"filled_quantity": "ScaleTrade: of filled orders only"}}}


def _is_said(value: str, expected: str) -> bool:
    try:
        return Decimal(value) == Decimal(expected)
    except InvalidOperation:
        return value == expected


class Scenario:
    """An application of one provider: a subscriber of three channels, and the HTTP interface."""

    def __init__(self, name: str, relay: Relay, http: httpx.AsyncClient) -> None:
        account = VENUES[name].simulated.account
        assert account is not None
        self.name, self.account, self.relay = name, account, relay
        self.traded = TRADED[name]
        self.heard: list[Mapping[str, Any]] = []
        self.order_id = self.position_id = "0"
        self.sent: list[str] = []
        self.errors: list[Mapping[str, Any]] = []
        self.stood: dict[str, Mapping[str, Any]] = {}
        self._http = http
        self._sizes: dict[str, str] = {}
        self._began = 0
        channels = (
            channel_name(Stream(name, self.traded.market)),
            f"private-account.{name}.{account}",
            f"cache-status.{name}",
        )
        self.subscriber = Subscriber(partial(port_of, relay), OUR_APP, channels, heard=self._hear)

    def _hear(self, channel: str, event: Mapping[str, Any]) -> None:
        assert event["provider"] == self.name
        self.heard.append(event)
        match event:
            case {"type": "order", "order": {"id": id, "symbol": symbol}}:
                assert symbol == self.traded.market.symbol
                self.order_id = id
            case {"type": "position", "position": {"id": id, "symbol": symbol}}:
                assert symbol == self.traded.market.symbol
                self.position_id = id

    async def asked(self, name: str, **members: str) -> Mapping[str, Any]:
        """Return the result of a command that reads."""
        asked = {"provider": self.name, "account": self.account, "command": name, **members}
        answer = await self._http.post("/api/v2/commands", json=asked)
        assert answer.status_code == 200, answer.text
        result: Mapping[str, Any] = answer.json()["result"]
        return result

    def last(self, kind: str, id: str) -> Mapping[str, Any]:
        """Return the body of the last event of this kind and id."""
        bodies = [event[kind] for event in self.heard if event["type"] == kind]
        found: Mapping[str, Any] = [body for body in bodies if body["id"] == id][-1]
        return found

    async def command(self, name: str, **members: str) -> None:
        """Send a command; a refusal before anything was begun has no reply and is noted here."""
        asked = {"provider": self.name, "account": self.account, "command": name, "within": PATIENT, **members}
        answer = await self._http.post("/api/v2/commands", json=asked)
        if answer.status_code == 422:
            self.errors.append(answer.json()["error"])
            return
        if answer.status_code == 400:
            assert f"provider {self.name} does not take {name}; it takes " in answer.json()["error"]["message"]
            self.heard.append({"type": "refused"})
            return
        assert answer.status_code == 200, answer.text
        if name == "place_order":
            self.order_id = answer.json()["result"]["order_id"]

    async def place(self, type: str, **members: str) -> None:
        asked = {"symbol": self.traded.market.symbol or "", "side": "BUY", "quantity": self.traded.quantity, **members}
        name = f"mine-{len(self.sent) + len(self.errors) + 1}"
        known = len(self.errors)
        await self.command("place_order", **asked, order_type=type, client_order_id=name)
        if len(self.errors) == known:
            self.sent.append(name)

    async def phase(self, expected: tuple[str, ...]) -> tuple[str, ...]:
        """Hear until the phase has as many steps as expected and then settled; return its steps."""
        until = self.subscriber.until
        try:
            await until(lambda: len(self.steps(expected)) >= len(expected))
        except AssertionError:
            return self.steps(expected)
        since = len(self.heard)
        await until(lambda: sum(event["type"] == self.traded.market.kind for event in self.heard[since:]) >= SETTLED)
        steps = self.steps(expected)
        self.stood = {kind: event[kind] for kind in ("order", "trade", "position") for event in self._phase(kind)}
        self._sizes.update((e["position"]["id"], e["position"]["quantity"]) for e in self._phase("position"))
        self._began = len(self.heard)
        return steps

    def _phase(self, kind: str) -> list[Mapping[str, Any]]:
        return [event for event in self.heard[self._began :] if event["type"] == kind]

    def compare(self, phase: str) -> None:
        """Every member of the phase's last order, fill and position is the same for all brokers, or documented as unsaid."""
        for kind, members in _facts(self.traded).get(phase, {}).items():
            if self.name == "shuriken" or kind not in self.stood:  # the steps have said so
                continue
            body = self.stood[kind]
            unsaid = rows(kind).keys() - said_by(self.name, kind) | UNSAID.get(self.name, {}).get(kind, {}).keys()
            for name, value in members.items():
                told = body.get(name)
                assert (name in unsaid) if told is None else _is_said(told, value), (phase, kind, name, told, value)

    def check(self) -> None:
        """Check the rest: no rule of a channel is broken, fills and orders are ours, the gap is in its place."""
        assert [problem for view in self.subscriber.views.values() for problem in view.problems] == []
        fills = [
            (event["trade"]["side"], event["trade"]["quantity"]) for event in self.heard if event["type"] == "trade"
        ]
        whole, part = self.traded.quantity, self.traded.part
        assert fills in ([], [("BUY", whole), ("SELL", part), ("SELL", str(int(whole) - int(part)))])
        orders = {event["order"].get("client_order_id") for event in self.heard if event["type"] == "order"}
        assert not orders or orders >= {*self.sent}
        states = [event.get("event") for event in self.heard]
        kind = self.traded.market.kind
        back = self.heard[states.index("RECONNECTING") :]
        assert next(event for event in back if kind in (event["type"], event.get("of")))["type"] == "gap"

    def steps(self, expected: tuple[str, ...]) -> tuple[str, ...]:
        """The phase so far: replies, then what happened, then market data and money if the phase is about them."""
        sizes, folded = dict(self._sizes), set()
        steps: list[str] = []
        for event in self.heard[self._began :]:
            match event:
                case {"type": "reply"}:
                    steps.insert(0, f"reply {event['outcome']}")
                case {"type": "account"}:
                    folded.add(MONEY)
                case {"type": "position", "event": happened, "position": {"id": id, "quantity": quantity}}:
                    if happened != "POSITION_MODIFIED" or sizes.get(id) != quantity:
                        steps.append(_word(event))
                    sizes[id] = quantity
                case {"type": kind} if kind == self.traded.market.kind:
                    folded.add(kind)
                case {"type": "notification"} if self.name == "shuriken":
                    pass  # the feeds of its account, which tell of something else all the time
                case _:
                    steps.append(_word(event))
        return (*_fills(steps), *(word for word in (self.traded.market.kind, MONEY) if word in folded & {*expected}))


def _word(event: Mapping[str, Any]) -> str:
    match event:
        case {"type": "order", "event": happened, "order": {"status": status}}:
            words = ["order", happened, status]
        case {"type": "gap", "of": of, "refill": refill}:
            words = ["gap", of, refill]
        case {"type": kind}:
            words = [kind, event.get("event", "")]
    return " ".join(filter(None, (*words, "reconciled" if event.get("reconciled") else "")))


def _fills(steps: list[str]) -> list[str]:
    """The two facts of a fill in one order."""
    for first in range(len(steps) - 1):
        if steps[first : first + 2] == [FILL, FILLED]:
            steps[first : first + 2] = [FILLED, FILL]
    return steps


def _comes_back_at_once(adapter: type[Adapter]) -> type[Adapter]:
    session = attrs.evolve(adapter.session, backoff=Backoff(first=0.01, cap=0.05))
    return type(adapter.__name__, (adapter,), {"session": session})


@pytest.fixture(autouse=True)
def _losses_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that a busy machine makes last longer than `liveness.SETTLES` is told as staleness too, and is not the subject."""
    monkeypatch.setattr(liveness, "SETTLES", 600.0)


@asynccontextmanager
async def scenario(name: str) -> AsyncIterator[tuple[Scenario, Simulator]]:
    """The provider's simulator, a relay with nothing else, and an application that subscribes."""
    simulated, simulator = VENUES[name].simulated, VENUES[name].simulator(EVERY)
    async with simulator.serve() as address:
        provider = {**provider_table(simulated, address.ws, address.http), "pinned": []}
        keys = {"desk": {"key": API_KEY, "accounts": ["*"], "trade": ["*"]}}
        async with running_relay({name: provider}, adapt=_comes_back_at_once, api_keys=keys) as relay:
            at, bearer = f"http://127.0.0.1:{port_of(relay)}", {"Authorization": f"Bearer {API_KEY}"}
            async with (
                httpx.AsyncClient(base_url=at, headers=bearer, timeout=WITHIN) as http,
                trio.open_nursery() as nursery,
            ):
                application = Scenario(name, relay, http)
                nursery.start_soon(application.subscriber.run)
                yield application, simulator
                nursery.cancel_scope.cancel()


@pytest.mark.parametrize("name", TRADED)
async def test_the_same_scenario_is_the_same_sequence(name: str) -> None:
    expected = {**SEQUENCE, **{phase: differs.steps for phase, differs in DIFFERENCES[name].items()}}
    found = {}
    async with scenario(name) as (app, simulator):

        async def heard(phase: str) -> None:
            found[phase] = await app.phase(expected[phase])
            assert found[phase] == expected[phase], phase
            app.compare(phase)

        await heard("log in and stream")
        await app.place("MARKET")
        await heard("buy")
        await app.place("LIMIT", limit_price=app.traded.bid)
        await heard("bid below the market")
        await app.command("amend_order", order_id=app.order_id, limit_price=app.traded.better)
        await heard("amend")
        await app.command("cancel_order", order_id=app.order_id)
        await heard("cancel")
        await app.place("MARKET", quantity="100000000")
        await heard("buy beyond the margin")
        assert [error["code"] for error in app.errors] == ([] if name == "shuriken" else ["insufficient_margin"])
        held = app.position_id
        await app.command("close_position", position_id=held, quantity=app.traded.part)
        await heard("close a part")
        await app.command("close_position", position_id=held)
        await heard("close")
        simulator.inject(Drop())
        await heard("lose the connection")

        ((_, session),) = app.relay.providers.connections()
        status = session.status()
        assert (status["state"], status["counters"]["unknown"], status["counters"]["reconnects"]) == ("up", 0, 1)
        app.check()
    assert list(found) == list(SEQUENCE)


#: Quantities that the touch of the simulated market cannot fill at once.
DEEP = {"helio": "900000", "tektii": "400", "crosstrade": "30"}


@pytest.mark.parametrize("name", DEEP)
async def test_what_is_filled_in_parts_adds_up(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The states, the fills and the position tell the same; ScaleTrade's simulator fills every order whole."""
    monkeypatch.setattr(Market, "_size", lambda market, listed, depth: listed.instrument.typical // 4)
    async with scenario(name) as (app, _):
        until, whole = app.subscriber.until, Decimal(DEEP[name])
        await until(lambda: {"account", "quote"} <= {event["type"] for event in app.heard})
        await app.place("MARKET", quantity=DEEP[name])
        assert app.errors == []
        id = app.order_id

        def orders() -> list[Mapping[str, Any]]:
            return [
                e["order"] | {"event": e["event"]} for e in app.heard if e["type"] == "order" and e["order"]["id"] == id
            ]

        def fills() -> list[Decimal]:
            of = [event["trade"] for event in app.heard if event["type"] == "trade"]
            return [Decimal(trade["quantity"]) for trade in of if trade["order_id"] == id]

        def sizes() -> list[Decimal]:
            return [Decimal(event["position"]["quantity"]) for event in app.heard if event["type"] == "position"]

        await until(lambda: orders()[-1:] and orders()[-1]["status"] == "FILLED" and sum(fills()) == whole)
        await until(lambda: sizes()[-1:] == [whole])
        states = [(order["event"], order["status"]) for order in orders()]
        assert states[0] in (("ORDER_CREATED", "OPEN"), ("ORDER_CREATED", "PENDING"))
        between = set(states[1:-1]) - {("ORDER_MODIFIED", "OPEN")}
        # CrossTrade's orders are asked for: of a busy machine's, the state between two answers is not seen.
        assert between <= {("ORDER_PARTIALLY_FILLED", "PARTIALLY_FILLED")}
        assert between or name == "crosstrade"
        assert states[-1] == ("ORDER_FILLED", "FILLED")
        filled = [Decimal(order["filled_quantity"]) for order in orders() if "filled_quantity" in order]
        assert filled == sorted(filled)
        assert filled[-1] == whole
        assert len(fills()) > 1
        assert sizes() == sorted(sizes())
        happened = [event["event"] for event in app.heard if event["type"] == "position"]
        assert happened[0] == "POSITION_OPENED"
        assert {*happened[1:]} <= {"POSITION_MODIFIED"}


#: Members of a moment, or of one message: a list has others than the event before it.
OF_THE_MOMENT = {"data", "updated_at", "current_price", "unrealized_pnl", "realized_pnl", "timestamp"}
#: What the commands that read are not answered with, by provider.
NOT_READ = {
    "helio": {"get_quote"},
    "tektii": {"position_history"},
    "scaletrade": {"order_history", "trade_history", "get_quote"},
    "crosstrade": {"position_history"},
}
PERIOD = {"since": "2020-01-01T00:00:00Z", "until": "2100-01-01T00:00:00Z"}
#: Members of the histories' requests; CrossTrade's have no times.
PERIODS: Mapping[str, Mapping[str, str]] = {"crosstrade": {}}


def _agree(listed: Mapping[str, Any], heard: Mapping[str, Any]) -> None:
    """Every member that both have is the same."""
    both = (listed.keys() & heard.keys()) - OF_THE_MOMENT
    assert {"id", "symbol", "side", "quantity"} <= both
    assert {name: listed[name] for name in both} == {name: heard[name] for name in both}


@pytest.mark.parametrize("name", NOT_READ)
async def test_lists_histories_and_quotes_are_answered_in_the_words_of_the_events(name: str) -> None:
    async with scenario(name) as (app, _):
        until, missing, symbol = app.subscriber.until, NOT_READ[name], app.traded.market.symbol or ""
        await until(lambda: {"account", "quote"} <= {event["type"] for event in app.heard})
        await app.place("MARKET")
        bought = app.order_id
        await until(lambda: any(event["type"] == "position" for event in app.heard))
        position = app.position_id
        await app.place("LIMIT", limit_price=app.traded.bid)
        bid = app.order_id
        placed = [("order", bid, "OPEN")]  # it may be pending first
        await until(
            lambda: (
                [(e["type"], e["order"]["id"], e["order"]["status"]) for e in app.heard if "order" in e][-1:] == placed
            )
        )

        (money,) = (accounts := await app.asked("list_accounts"))["accounts"]
        assert (money["id"], accounts.keys()) == (app.account, {"accounts", "data"})
        assert money.keys() >= {"balance", "currency"}
        (held,) = (positions := await app.asked("list_positions"))["positions"]
        _agree(held, app.last("position", position))
        assert positions.keys() == {"positions", "data"}
        (waiting,) = (orders := await app.asked("list_orders"))["orders"]
        _agree(waiting, app.last("order", bid))
        assert (waiting["status"], orders.keys()) == ("OPEN", {"orders", "data"})
        period = PERIODS.get(name, PERIOD)
        if "order_history" not in missing:
            found = {order["id"]: order for order in (await app.asked("order_history", **period))["orders"]}
            _agree(found[bought], app.last("order", bought))
            assert found[bought]["status"] == "FILLED"
        if "trade_history" not in missing:
            (fill,) = (await app.asked("trade_history", **period))["trades"]
            heard = next(event["trade"] for event in app.heard if event["type"] == "trade")
            _agree(fill, heard)
            assert (fill["order_id"], fill["price"]) == (heard["order_id"], heard["price"])
        if "get_quote" not in missing:
            quote = await app.asked("get_quote", symbol=symbol)
            assert quote.keys() == {"quote", "data"}
            assert quote["quote"].keys() >= {"symbol", "native_symbol", "bid", "ask", "provider"}
            assert quote["quote"]["symbol"] == symbol
        if "position_history" not in missing:
            await app.command("close_position", position_id=position)
            await until(lambda: "POSITION_CLOSED" in [event.get("event") for event in app.heard])
            (closed,) = (await app.asked("position_history", **period))["positions"]
            _agree(closed, app.last("position", position))
            assert closed["quantity"] == "0"
        assert (await app.asked("list_accounts")).get("not_understood") is None
        ((_, session),) = app.relay.providers.connections()
        assert session.status()["counters"]["unknown"] == 0


@pytest.mark.parametrize("name", DIFFERENCES)
def test_every_difference_is_documented_by_its_provider(name: str) -> None:
    readme = " ".join((ADAPTERS / f"relay_{name}" / "README.md").read_text().split())
    for phase, differs in DIFFERENCES[name].items():
        assert differs.steps != SEQUENCE[phase], f"{phase} does not differ"
        assert [words for words in differs.why if words not in readme] == [], f"{phase}: not in the README"


class Tapped:
    """A plugin that counts the events of each provider and keeps what is said of the sessions."""

    def __init__(self) -> None:
        self.events: dict[str, int] = {}
        self.sessions: list[tuple[str, str]] = []
        self._news = trio.Event()

    @hookimpl
    def relay_taps(self) -> list[Tap]:
        return [self._tap]

    def _tap(self, event: Event, stamp: Stamp, id: str) -> None:
        self.events[stamp.provider] = self.events.get(stamp.provider, 0) + 1
        if event.kind in ("connection", "error"):
            self.sessions.append((stamp.provider, str(getattr(event, "event", event))))
        self._news.set()
        self._news = trio.Event()

    async def all_said(self, providers: set[str], events: int) -> None:
        while any(self.events.get(provider, 0) < events for provider in providers):
            await self._news.wait()


async def _status(relay: Relay) -> list[Mapping[str, Any]]:
    """The sessions, as the demo's own status page tells them."""
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {DEMO_API_KEY}"}, timeout=WITHIN) as http:
        answer = await http.get(f"http://127.0.0.1:{port_of(relay)}/api/v2/status")
    sessions: list[Mapping[str, Any]] = answer.json()["sessions"]
    return sessions


async def test_the_demo_runs_every_provider_and_understands_all_they_say() -> None:
    tapped, plugins = Tapped(), load_plugins()
    plugins.manager.register(tapped, "tapped")
    providers = {item.value.provider for item in plugins.collect("relay_simulators")}
    assert providers >= TRADED.keys()
    async with trio.open_nursery() as nursery:
        relay: Relay = await nursery.start(partial(demo, ("127.0.0.1", 0), None, plugins))
        with trio.fail_after(WITHIN):
            await tapped.all_said(providers, 20)
        statuses = await _status(relay)
        nursery.cancel_scope.cancel()
    assert sorted(tapped.sessions) == sorted((provider, "CONNECTED") for provider in (*providers, "helio"))
    understood = {status["provider"]: (status["state"], status["unknown"], status["samples"]) for status in statuses}
    assert understood == dict.fromkeys(providers, ("CONNECTED", 0, []))
    assert all(status["topics"]["troubled"] == [] for status in statuses)


#: Kinds that no command of ours brings about; the tests of their adapters show them.
_OF_ITS_OWN_ACCORD = {
    ("alpaca", "candle"): "a bar is sent when its minute is over",
    ("alpaca", "signal"): "a halt of trading in a stock, or the correction of a print",
    ("all", "signal"): "its example is Alpaca's",
    ("scaletrade", "alert"): "a price alert is set on its platform",
    ("tektii", "notification"): "a financing, the end of a backtest, or an error of the account",
}


async def test_every_example_of_the_catalog_carries_data() -> None:
    """A stream that a catalog offers with a filter that "works now" works, for every provider that has a simulator."""
    heard: dict[str, set[str]] = {}

    def hear(name: str, event: Mapping[str, Any]) -> None:
        heard.setdefault(name, set()).add(event["type"])

    async with trio.open_nursery() as nursery:
        relay: Relay = await nursery.start(partial(demo, ("127.0.0.1", 0), None, load_plugins()))
        with trio.fail_after(WITHIN):
            while any(status["state"] != "up" for status in relay.providers.statuses()):
                await trio.sleep(0.01)
        wanted: dict[str, set[str]] = {}
        for entry in relay.providers.catalog():
            if entry.kind in ("rate_limit", "staleness", "error"):  # they tell of faults
                continue
            stream = entry.stream(entry.example)
            assert relay.providers.wrong_with(stream) is None, entry.id
            if (entry.provider, entry.kind) not in _OF_ITS_OWN_ACCORD:
                prefix = {"account": "private-", "status": "cache-"}.get(stream.topic.kind, entry.prefix)
                wanted.setdefault(channel_name(stream, prefix), set()).add(entry.event)
        app = App(id=DEMO_APP_ID, key=DEMO_KEY, secrets=(DEMO_SECRET,))
        subscriber = Subscriber(lambda: port_of(relay), app, wanted, heard=hear)
        nursery.start_soon(subscriber.run)
        accounts = [name for name in wanted if name.startswith("private-account")]
        await subscriber.until(lambda: all(view.position for view in subscriber.views.values()))
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {DEMO_API_KEY}"}, timeout=WITHIN) as http:
            for provider in relay.providers:
                for account in provider.accounts if PlaceOrder in provider.commands else ():
                    symbol = next(topic.symbol for topic in provider.settings.pinned if topic.kind == "quote")
                    order = {"provider": provider.name, "account": account, "command": "place_order", "symbol": symbol,
                             "side": "BUY", "order_type": "MARKET", "quantity": "1"}  # fmt: skip
                    answer = await http.post(f"http://127.0.0.1:{port_of(relay)}/api/v2/commands", json=order)
                    assert answer.json().get("ok"), answer.text
        await subscriber.until(lambda: all(kinds <= heard.get(name, set()) for name, kinds in wanted.items()))
        nursery.cancel_scope.cancel()
    assert len(accounts) == 6  # an example is of a provider's first account
    assert len(wanted) >= 25
