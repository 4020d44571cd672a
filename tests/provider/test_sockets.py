"""Several sockets of one provider, commands that need none, binary frames, calendars, and whoever else is connected."""

from collections.abc import Hashable, Iterable
from typing import Any

import attrs
import msgspec
import pytest
import trio

from relay.adapter import (
    Adapter,
    Answer,
    Calendar,
    CloseMeaning,
    Fetch,
    Header,
    Offer,
    Option,
    Outgoing,
    Rate,
    Session,
    Subscribe,
    dumps,
    loads,
)
from relay.adapter.messages import CommandReply, Redial
from relay.model.channels import Topic
from relay.model.commands import CancelOrder, PlaceOrder
from relay.model.events import Event, Order, Quote, Reply
from relay.model.hours import Hours
from relay.plugins.hookspecs import hookimpl
from relay.provider import liveness, session_events
from relay.provider.pacing import Budget
from relay.provider.session import SessionMachine
from relay.providers import _as_configured, _on_socket
from relay.settings import ProviderSettings
from relay.testing.simulator import HttpRequest, HttpResponse, Link, Simulator
from relay.testing.subscriber import Subscriber
from support.running import port_of, running_relay
from support.situations import OUR_APP

KEYS = (Header("X-Key", "{key}"), Header("X-Secret", "{secret}"))
TRADING = Session(
    url="wss://trade.test/stream",
    http="https://trade.test",
    auth=KEYS,
    http_auth=KEYS,
    commands_over="http",
    limits=(Rate(2, per=60, of=("call", "http")),),
)


class Broker(Adapter):
    """A broker whose account is on one socket, and whose prices are on another one, in MessagePack."""

    name = "broker"
    session = attrs.evolve(
        TRADING,
        sockets={
            "prices": Session(
                url="wss://data.test/v2/{feed}",
                http="https://data.test",
                frames="binary",
                limits=(Rate(1, per=60, of="http"),),
            )
        },
    )
    offers = (
        Offer(kind="quote", socket="prices", example={"symbol": "AAPL"}),
        Offer(kind="account", visibility="presence"),
    )
    commands = (PlaceOrder, CancelOrder)
    credentials = ("key", "secret")
    options = (Option("feed", "iex"),)

    def prepare(self) -> Iterable[Fetch]:
        if not self.socket:
            yield Fetch(tag="login", url="/login")

    def encode(self, outgoing: Outgoing) -> Iterable[str | bytes | Fetch]:
        match outgoing:
            case Subscribe(topics) if self.socket == "prices":
                yield msgspec.msgpack.encode({"subscribe": [topic.symbol for topic in topics]})
            case CancelOrder(id=id, order_id=order_id):
                yield Fetch(tag=("call", id), url=f"/orders/{order_id}", method="DELETE", of="call")

    def decode(self, message: Any) -> Iterable[Event | Redial]:
        if self.socket == "prices":
            for symbol, bid in msgspec.msgpack.decode(message):
                yield Quote(symbol=symbol, bid=bid)
            return
        match loads(message):
            case {"order": id, "status": status}:
                yield Order(event=None, id=id, symbol="AAPL", side="BUY", quantity="1", status=status)
            case {"busy": reason}:
                yield Redial(reason, CloseMeaning.OCCUPIED)

    def fetched(self, tag: Hashable, answer: Answer) -> Iterable[CommandReply]:
        match tag:
            case ("call", str(id)):
                yield CommandReply(id, {"status": answer.status})


# --- over real sockets -----------------------------------------------------------------------------------------------


class Plugin:
    @hookimpl
    def relay_adapters(self) -> list[type[Adapter]]:
        return [Broker]


class Brokerage(Simulator):
    ws_path = "/stream"

    def admit(self, request: HttpRequest) -> HttpResponse | None:
        keys = request.headers.get("x-key"), request.headers.get("x-secret")
        is_account = request.target.startswith("/stream")
        return HttpResponse(status=401) if is_account and keys != ("k-1", "s-1") else None

    async def answer(self, request: HttpRequest) -> HttpResponse:
        is_known = (request.headers.get("x-key"), request.headers.get("x-secret")) == ("k-1", "s-1")
        return HttpResponse(status=200 if is_known else 401, body="{}")

    def received(self, link: Link, message: str | bytes) -> None:
        assert isinstance(message, bytes)
        for symbol in msgspec.msgpack.decode(message)["subscribe"]:
            link.send(msgspec.msgpack.encode([[symbol, "1.50"]]))

    def link(self, path: str) -> Link | None:
        return next((link for link in self.links if link.request.target.startswith(path)), None)


def test_the_sockets_of_a_configured_endpoint_keep_their_paths() -> None:
    settings = ProviderSettings(name="b", adapter=Broker, url="ws://127.0.0.1:9/x", http_url="http://127.0.0.1:9")
    adapter = _on_socket(_as_configured(settings), "prices")
    assert (adapter.session.url, adapter.session.http) == ("ws://127.0.0.1:9/v2/{feed}", "http://127.0.0.1:9")
    assert (adapter.socket, adapter.session.frames, adapter.session.http_auth) == ("prices", "binary", KEYS)
    assert _on_socket(Broker, "prices").session.http == "https://data.test"


# --- one machine -----------------------------------------------------------------------------------------------------


@pytest.fixture
def r(rig: Any) -> Any:
    r = rig(adapter=Broker, credentials={"key": "k-1", "secret": "s-1"}, **attrs.asdict(TRADING, recurse=False))
    outputs = r.do(session_events.Start(), 0) + r.tick()
    (login,) = r.requests(outputs)
    assert login.fetch.headers == {"X-Key": "k-1", "X-Secret": "s-1"}
    (dial,) = [each for each in answered(r, login, "{}") if isinstance(each, session_events.Dial)]
    assert dial.headers == {"X-Key": "k-1", "X-Secret": "s-1"}
    return r


def answered(r: Any, request: session_events.FetchRequest, text: str, status: int = 200) -> list[Any]:
    return r.do(session_events.Fetched(request.id, Answer(status=status, text=text)))


def replies(r: Any) -> list[tuple[str, str]]:
    return [
        (event.id, str(event.outcome), (event.error or {}).get("code"))
        for event in r.events
        if isinstance(event, Reply)
    ]


def test_a_command_is_sent_while_the_stream_is_lost(r: Any) -> None:
    assert r.do(session_events.DialFailed("no route")) is not None
    assert r.machine.life.value == "waiting"
    (sent,) = r.requests(r.ask(CancelOrder(id="c1", order_id="7"), at=0.5))
    assert sent.url == "https://trade.test/orders/7"
    answered(r, sent, "{}", 204)
    assert replies(r) == [("c1", "accepted", None)]
    assert r.texts(r.ask(PlaceOrder(id="p", symbol="S", side="BUY", order_type="MARKET", quantity="1"))) == []
    assert replies(r)[1:] == [("p", "rejected", "unsupported_command")]


def test_a_command_that_waits_for_its_budget_outlives_the_connection(r: Any) -> None:
    r.do(session_events.Opened(), 1)
    assert len(r.requests(r.ask(CancelOrder(id="c1", order_id="7"), at=1))) == 1
    assert r.requests(r.ask(CancelOrder(id="c2", order_id="8"), at=2, within=120)) == [], (
        "login and c1 are the minute's"
    )
    r.do(session_events.Closed(1006), 3)
    assert replies(r) == []
    assert r.machine.deadline() <= 60
    sent = [request.url for at in (3.5, 60, 61) for request in r.requests(r.tick(at))]
    assert "https://trade.test/orders/8" in sent


def test_nothing_is_sent_before_the_login_nor_after_a_refusal(r: Any, rig: Any) -> None:
    early = rig(adapter=Broker, credentials={"key": "k-1", "secret": "s-1"}, **attrs.asdict(TRADING, recurse=False))
    early.do(session_events.Start(), 0)
    early.tick()
    early.ask(CancelOrder(id="c1", order_id="7"))
    assert replies(early) == [("c1", "rejected", "not_connected")]
    r.do(session_events.DialRefused(401), 1)
    assert r.machine.life.value == "failed"
    r.ask(CancelOrder(id="c1", order_id="7"), at=2)
    assert replies(r) == [("c1", "rejected", "not_connected")]


def test_whoever_else_is_connected_is_told_once_when_it_cannot_be_a_dead_connection_of_ours(r: Any) -> None:
    told = []
    at = 0.0
    for _ in range(12):
        at = max(at, r.machine.deadline() if r.machine.life.value == "waiting" else at)
        for request in r.requests(r.tick(at)):
            answered(r, request, "{}")
        r.do(session_events.Opened(), at)
        r.machine.receive(dumps({"busy": "connection limit exceeded"}), r.moment(at))
        told += [(at, event.code) for event in r.fresh() if event.kind == "error"]
    assert [code for _, code in told] == ["occupied"]
    assert told[0][0] >= 90
    assert r.machine.life.value == "waiting", "it is tried for as long as it takes"
    assert "RATE_LIMIT_HIT" not in [getattr(event, "event", None) for event in r.events]


def test_a_further_connection_has_no_commands_and_asks_for_no_account(r: Any) -> None:
    r.do(session_events.Opened(), 1)
    r.ask(CancelOrder(id="c1", order_id="7"), at=1)
    further = SessionMachine(
        r.adapter, r.context, publish=r._publish, commands=r.commands, uniform=lambda: 1.0, correlation=str,
        beside=r.machine,
    )  # fmt: skip
    now = r.moment(2)
    further.step(session_events.WantTopic(Topic(kind="quote", symbol="AAPL")), now)
    further.abandon("the other socket is lost", now)
    assert replies(r) == [], "the command is the first connection's"
    assert further.status()["commands"] == 0


# --- budgets, calendars ----------------------------------------------------------------------------------------------


def test_budgets_name_an_api_and_several_kinds() -> None:
    budget = Budget(TRADING.limits, None, {"prices": (Rate(1, per=60, of="http"),)})
    budget.take({"call": 1}, 0)
    budget.take({"http": 1, "call": 1}, 0)
    assert budget.at({"call": 1}, 0) == 60, "both draw from one"
    assert budget.at({("prices", "http"): 1}, 0) == 0
    budget.take({("prices", "http"): 1}, 0)
    assert budget.at({("prices", "http"): 1}, 1) == 60
    assert budget.status(1) == {"call": 0, "http": 0, "prices http": 0}
    budget.pause(("call", "http"), 200, "prices")
    assert (budget.at({("prices", "http"): 1}, 100), budget.at({"call": 1}, 100)) == (200, 100)
    assert budget.at({("prices", "call"): 1}, 100) == 100, "of an API without such a limit: the account's"
    budget.pause(("call", "http"), 300, "elsewhere")
    assert budget.at({"http": 1}, 100) == 300


def test_a_calendar_s_days_take_the_place_of_the_week_s(r: Any) -> None:
    hours = Hours("Mon-Fri 09:30-16:00", "America/New_York")
    offer = Offer(kind="quote", hours=hours, socket="prices")
    dated = type("Dated", (Broker,), {"offers": (offer,)})
    topic = Topic(kind="quote", symbol="AAPL")
    assert dated.hours(topic, r.context) == hours
    for item in (Calendar({"2026-11-27": "09:30-13:00"}), Calendar({"2026-11-26": "", "2026-11-27": "09:30-13:00"})):
        r.machine.core.begin(r.moment(1))
        r.machine.handle_decoded(item)
    found = dated.hours(topic, r.context)
    assert found == hours.dated({"2026-11-26": "", "2026-11-27": "09:30-13:00"})
    r.machine.handle_decoded(Calendar({"tomorrow": ""}))
    assert r.counters()["unknown"] == 1
    assert dated.hours(topic, r.context) == found


async def test_one_provider_with_two_sockets_of_which_one_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The account's socket stays up, the status says which one is lost, and frames are binary both ways."""
    monkeypatch.setattr(liveness, "SETTLES", 0.0)
    states: list[tuple[str, str | None]] = []
    bids: list[str] = []

    def hear(channel: str, event: dict[str, Any]) -> None:
        if event["type"] == "connection":
            states.append((event["event"], event.get("socket")))
        elif event["type"] == "quote":
            bids.append(event["quote"]["bid"])

    house = Brokerage()
    async with house.serve() as address:
        account = {"main": {"credentials": {"key": "k-1", "secret": "s-1"}}}
        table = {"url": address.ws, "http_url": address.http, "options": {"feed": "iex"}, "accounts": account}
        async with running_relay({"broker": table}, stranger=Plugin()) as relay, trio.open_nursery() as nursery:
            channels = ["status.broker", "quote.broker.AAPL"]
            subscriber = Subscriber(lambda: port_of(relay), OUR_APP, channels, heard=hear)  # type: ignore[arg-type]
            nursery.start_soon(subscriber.run)
            await subscriber.until(lambda: bids == ["1.50"])
            assert sorted(link.request.target for link in house.links) == ["/stream", "/v2/iex"]
            (status,) = relay.providers.statuses()
            assert [each.get("socket") for each in status["connections"]] == [None, "prices"]
            prices = house.link("/v2/iex")
            assert prices is not None
            prices.drop()
            await subscriber.until(lambda: ("CONNECTED", "prices") in states and bids == ["1.50", "1.50"])
            assert ("RECONNECTING", "prices") in states
            assert ("RECONNECTING", None) not in states
            nursery.cancel_scope.cancel()
