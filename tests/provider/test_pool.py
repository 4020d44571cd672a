"""Several connections of one provider account, which are one session to the outside."""

import random
from collections.abc import Callable, Iterable
from typing import Any

import attrs
import pytest
import trio

from adapters.relay_binance.adapter import Binance
from relay.adapter import (
    Ack,
    Adapter,
    Backoff,
    Context,
    Fetch,
    Offer,
    Outgoing,
    Rate,
    Session,
    Subscribe,
    Unsubscribe,
    dumps,
    loads,
)
from relay.model.channels import Asker, Topic
from relay.model.events import Connection, Event, Quote, Stamp
from relay.plugins.hookspecs import hookimpl
from relay.provider import liveness, session_events
from relay.provider.pacing import Budget
from relay.provider.pool import ConnectionPool
from relay.provider.session import NO_TOPICS, SessionMachine
from relay.provider.session_events import Now
from relay.testing.simulator import Link, Simulator
from relay.testing.subscriber import Subscriber
from relay.trading.registry import CommandRegistry
from support.deadlines import WITHIN
from support.running import port_of, running_relay
from support.situations import OUR_APP

BY = Asker("7", "1.1")
STAMP = Stamp(provider="acme", received_at="2026-01-01T00:00:00Z")


class Stub:
    """A connection that keeps what is wanted of it."""

    def __init__(self, publish: Any) -> None:
        self.publish, self.wanted = publish, set()
        self.is_over, self.on_turn = False, lambda: None
        self.state: dict[str, Any] = {"state": "up", "reason": ""}

    def want(self, topic: Topic, by: Asker | None = None) -> None:
        self.wanted.add(topic.symbol)

    want_too = want

    def unwant(self, topic: Topic) -> None:
        self.wanted.remove(topic.symbol)

    def has(self, topic: Topic) -> bool:
        return topic.symbol in self.wanted

    @property
    def topics(self) -> int:
        return len(self.wanted)

    def status(self) -> dict[str, Any]:
        counters = {"received": 2, "notes": {"late_answer": 1}, "samples": [{"raw": "x"}] * 60}
        topics = {"confirmed": self.topics, "troubled": []}
        return {"provider": "acme", **self.state, "topics": topics, "books": {"held": 1, "collecting": ["A"]},
                "counters": counters, "unwritten": 0, "queued": 1, "last_event_at": None,
                "last_received_at": f"2025-01-01T00:00:0{self.topics}Z"}  # fmt: skip


class Pool:
    """A pool of at most three connections with two topics each."""

    def __init__(self, most_connections: int = 3) -> None:
        self.heard: list[Event] = []
        self.run: list[int] = []
        self.pool = ConnectionPool(
            lambda number, publish, beside, url: Stub(publish),
            lambda event, stamp, now: self.heard.append(event),
            Session(url="wss://acme", most_topics=2, most_connections=most_connections),
        )  # type: ignore[arg-type, return-value]
        self.pool.run_each(lambda number, connection: self.run.append(number))

    def want(self, *symbols: str) -> None:
        for symbol in symbols:
            self.pool.want(Topic(kind="quote", symbol=symbol), BY)

    def unwant(self, symbol: str) -> None:
        self.pool.unwant(Topic(kind="quote", symbol=symbol))

    @property
    def wanted(self) -> list[str]:
        return ["".join(sorted(each.wanted)) for each in self.pool.connections]

    def say(self, number: int, event: str, reason: str | None = None) -> str | None:
        """Return what the outside is told when a connection says this of itself."""
        self.heard.clear()
        self.pool.connections[number - 1].publish(Connection(event=event, reason=reason), STAMP, 0.0)
        return f"{self.heard[0].event} {self.heard[0].reason or ''}".strip() if self.heard else None  # type: ignore[attr-defined]


def test_a_further_connection_is_opened_when_the_others_are_full_and_places_are_used_again() -> None:
    p = Pool()
    p.want("A", "B", "C", "A", "D", "E")
    assert p.wanted == ["AB", "CD", "E"]
    assert p.run == [1, 2, 3]
    p.unwant("A")
    p.want("F", "G")
    assert p.wanted == ["BF", "CD", "EG"]


def test_an_instrument_needs_no_room_and_opens_no_connection() -> None:
    p = Pool()
    p.want("A", "B")
    p.pool.want(Topic(kind="instrument", symbol="C"), BY)
    assert (len(p.pool.connections), p.wanted) == (1, ["ABC"])


def test_where_there_can_be_no_further_one_a_topic_waits_on_the_least_crowded() -> None:
    p = Pool()
    p.want(*"ABCDEF", "G", "H")
    assert p.wanted == ["ABG", "CDH", "EF"]
    single = Pool(most_connections=1)
    single.want(*"ABC")
    assert single.wanted == ["ABC"], "its table tells the third why it waits"


def test_topics_of_another_socket_have_connections_of_their_own() -> None:
    opened: list[str] = []

    def connect(number: int, publish: Any, beside: Any, socket: str) -> Any:
        opened.append(socket)
        return Stub(publish)

    declared = Session(url="wss://a", sockets={"b": "wss://b"}, most_topics=2, most_connections=2)
    of_kind = {"candle": "b", "public_trade": "b", "quote": "no such socket"}
    pool = ConnectionPool(connect, lambda event, stamp, now: None, declared, lambda topic: of_kind[topic.kind])
    for kind, symbol in (
        ("quote", "A"),
        ("candle", "B"),
        ("public_trade", "C"),
        ("quote", "D"),
        ("candle", "E"),
        ("quote", "F"),
    ):
        pool.want(Topic(kind=kind, symbol=symbol, timeframe="1m" if kind == "candle" else None), BY)
    assert opened == ["", "b", "b", ""]
    assert [each.get("socket") for each in pool.status()["connections"]] == [None, "b", "b", None]
    assert ["".join(sorted(each.wanted)) for each in pool.connections] == ["AD", "BC", "E", "F"]  # type: ignore[attr-defined]


def test_the_session_is_connected_while_no_connection_is_lost() -> None:
    p = Pool()
    assert p.say(1, "CONNECTED") == "CONNECTED"
    p.want(*"ABCDE")
    assert p.say(2, "CONNECTED") is None
    assert p.say(3, "CONNECTED") is None
    assert p.say(2, "RECONNECTING", "closed with 1006") == "RECONNECTING connection 2 of 3: closed with 1006"
    assert p.say(1, "RECONNECTING", "closed with 1006") == "RECONNECTING connection 1 of 3: closed with 1006"
    assert p.say(1, "CONNECTED") is None, "the second one is still away"
    assert p.say(2, "CONNECTED") == "CONNECTED"
    assert p.say(3, "FAILED", "HTTP 451") == "FAILED connection 3 of 3: HTTP 451"


def test_a_connection_without_topics_is_not_missed() -> None:
    p = Pool()
    p.say(1, "CONNECTED")
    p.want(*"ABC")
    p.say(2, "CONNECTED")
    assert p.say(2, "DISCONNECTING", NO_TOPICS) is None
    p.say(2, "RECONNECTING", "closed with 1006")
    assert p.say(2, "DISCONNECTING", NO_TOPICS) == "CONNECTED"
    assert p.say(1, "DISCONNECTING", "shutdown") == "DISCONNECTING shutdown"


def test_the_status_has_the_worst_state_and_the_sums() -> None:
    p = Pool()
    assert p.pool.status()["counters"]["received"] == 2
    p.want(*"ABC")
    p.say(1, "CONNECTED")
    p.say(2, "RECONNECTING", "closed with 1006")
    p.pool.connections[1].state = {"state": "waiting", "reason": "closed with 1006"}  # type: ignore[attr-defined]
    status = p.pool.status()
    assert (status["state"], status["reason"]) == ("waiting", "closed with 1006")
    assert status["counters"]["received"] == 4
    assert status["counters"]["notes"] == {"late_answer": 2}
    assert len(status["counters"]["samples"]) == 100
    assert status["books"] == {"held": 2, "collecting": ["A", "A"]}
    assert status["topics"]["confirmed"] == 3
    assert [each["topics"] for each in status["connections"]] == [2, 1]
    assert status["last_received_at"] == "2025-01-01T00:00:02Z"


def test_connections_share_what_the_provider_counts_for_the_account() -> None:
    rates = (Rate(2, per=10), Rate(1, per=10, of="interest"), Rate(3, per=60, of="dial"), Rate(5, per=60, of="http"))
    first = Budget(rates)
    second = Budget(rates, first)
    for budget in (first, second):
        budget.take({"frame": 2, "interest": 1, "dial": 1, "http": 2}, 0)
    assert [first.remaining(of, 0) for of in ("frame", "interest", "dial", "http")] == [0, 0, 1, 1]
    assert second.at({"dial": 2}, 0) == 60
    second.pause(("frame", "http"), 30)
    assert first.at({"http": 1}, 0) == 30
    assert first.at({"frame": 1}, 0) == 10, "only its own frames"


def test_declarations_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="'most_connections' above 1 needs 'most_topics'"):
        Session(url="wss://x", most_connections=2)
    with pytest.raises(ValueError, match="'single' is one connection"):
        Session(url="wss://x", most_connections=2, most_topics=9, single=True)
    plain = Session(url="wss://x")
    with pytest.raises(TypeError, match="'sockets' must be URLs or sessions by their names"):
        Session(url="wss://x", sockets={"candle": 7})
    with pytest.raises(ValueError, match="'sockets' of socket a: only the session itself has further sockets"):
        Session(url="wss://x", sockets={"a": attrs.evolve(plain, sockets={"b": plain})})
    with pytest.raises(ValueError, match="'commands_over' of socket a"):
        Session(url="wss://x", sockets={"a": attrs.evolve(plain, commands_over="http")})
    with pytest.raises(ValueError, match="Elsewhere: offer account cannot be on socket 'a'"):
        type("Elsewhere", (Adapter,), {"session": plain, "offers": (Offer(kind="account", socket="a"),)})
    with pytest.raises(ValueError, match="cannot share one rate"):
        Rate(1, of=("frame", "call"))
    declared = {
        "session": Session(url="wss://x", most_connections=2, most_topics=9),
        "offers": (Offer(kind="account"),),
    }
    with pytest.raises(ValueError, match="Trading: 'most_connections' is for market data"):
        type("Trading", (Adapter,), declared)
    assert (Binance.session.most_topics, Binance.session.most_connections) == (1024, 20)


class Feed(Adapter):
    name = "acme"
    offers = (Offer(kind="quote"),)
    session = Session(
        url="ws://acme.test/ws",
        ack_within=5,
        most_topics=2,
        most_connections=3,
        topics_per_frame=1,
        backoff=Backoff(first=0.01, cap=0.01),
    )

    def encode(self, outgoing: Outgoing) -> Iterable[str | Fetch]:
        match outgoing:
            case Subscribe((topic,)) | Unsubscribe((topic,)):
                yield dumps([type(outgoing).__name__, topic.symbol])

    def decode(self, message: str) -> Iterable[Event | Ack]:
        what, symbol, bid = loads(message)
        yield Ack((Topic(kind="quote", symbol=symbol),)) if what == "ack" else Quote(symbol=symbol, bid=bid)


class Plugin:
    @hookimpl
    def relay_adapters(self) -> list[type[Adapter]]:
        return [Feed]


class FeedSimulator(Simulator):
    """Acknowledges two topics on a connection and quotes them; it closes the connection over a third one."""

    ws_path = "/ws"

    def received(self, link: Link, message: str | bytes) -> None:
        what, symbol = loads(message)
        link.state = (link.state or set()) | {symbol} if what == "Subscribe" else link.state - {symbol}
        if len(link.state) > 2:
            link.close(1008, "too many topics")
        elif what == "Subscribe":
            link.send(dumps(["ack", symbol, None]))
            link.send(dumps(["quote", symbol, "1"]))

    def link(self, symbol: str) -> Link:
        return next(each for each in self.links if symbol in (each.state or ()))

    def quote(self, symbol: str, bid: str) -> None:
        self.link(symbol).send(dumps(["quote", symbol, bid]))


class Listed(Feed):
    """Fetches a list of symbols that it can do without, and a login that it cannot."""

    session = attrs.evolve(Feed.session, http="http://acme.test")

    def prepare(self) -> Iterable[Fetch]:
        yield Fetch(tag="symbols", url="/symbols", needed=False)
        yield Fetch(tag="login", url="/login")


def test_a_further_connection_fetches_only_what_it_cannot_do_without() -> None:
    """A list of all symbols is some megabytes and costs weight: the first connection fetches it for all of them."""

    def machine(beside: SessionMachine | None) -> SessionMachine:
        return SessionMachine(
            Listed, context, publish=lambda *event: None, commands=CommandRegistry(), uniform=lambda: 1.0,
            correlation=str, beside=beside,
        )  # fmt: skip

    context = Context(provider="acme")
    first = machine(None)
    made = first.step(session_events.Start(), Now(0.0, 0))
    assert fetched_of(made) == ["symbols", "login"]
    further = machine(first)
    further.step(session_events.Start(), Now(0.0, 0))
    assert further.life.value == "idle"
    want = session_events.WantTopic(Topic(kind="quote", symbol="A"), BY)
    assert fetched_of(further.step(want, Now(0.0, 0))) == ["symbols", "login"], "nothing is known yet"
    context.symbols.learn([("A", "A")])
    further = machine(first)
    further.step(session_events.Start(), Now(0.0, 0))
    assert fetched_of(further.step(want, Now(0.0, 0))) == ["login"]


def fetched_of(outputs: Iterable[session_events.Output]) -> list[str]:
    return [each.url.rpartition("/")[2] for each in outputs if isinstance(each, session_events.FetchRequest)]


def hearing() -> tuple[dict[str, list[str]], Callable[[str, dict[str, Any]], None]]:
    """Return what a subscriber was told by symbol, or provider for the status, and the function that hears it."""
    heard: dict[str, list[str]] = {}

    def hear(channel: str, event: dict[str, Any]) -> None:
        said = event.get("event") or event.get("quote", {}).get("bid") or event["type"]
        heard.setdefault(channel.rpartition(".")[2], []).append(said)

    return heard, hear


async def test_one_connection_of_three_is_lost_and_comes_back_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(liveness, "SETTLES", 0.0)
    heard, hear = hearing()
    venue = FeedSimulator()
    async with (
        venue.serve() as address,
        running_relay({"acme": {"adapter": "acme", "url": address.ws, "linger": 0}}, stranger=Plugin()) as relay,
    ):
        channels = ["status.acme", *(f"quote.acme.{symbol}" for symbol in "ABCDE")]
        subscriber = Subscriber(lambda: port_of(relay), OUR_APP, channels, heard=hear)  # type: ignore[arg-type]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(subscriber.run)
            await subscriber.until(lambda: set(heard) >= set("ABCDE"))
            assert sorted(sorted(link.state) for link in venue.links) == [["A", "B"], ["C", "D"], ["E"]]
            (status,) = relay.providers.statuses()
            assert status["topics"]["confirmed"] == 5
            assert [each["state"] for each in status["connections"]] == ["up", "up", "up"]
            for said in heard.values():
                said.clear()
            venue.link("C").drop()
            await subscriber.until(lambda: heard["C"][-1:] == heard["D"][-1:] == ["1"] and "CONNECTED" in heard["acme"])
            for symbol in "ABCDE":
                venue.quote(symbol, "2")
            await subscriber.until(lambda: all(heard[symbol][-1:] == ["2"] for symbol in "ABCDE"))
            cut = ["STALE", "gap", "FRESH", "1", "2"]
            states = heard.pop("acme")
            assert heard == {"A": ["2"], "B": ["2"], "C": cut, "D": cut, "E": ["2"]}
            assert (states[0], states[-1]) == ("RECONNECTING", "CONNECTED")
            nursery.cancel_scope.cancel()
        with trio.fail_after(WITHIN):
            while len(venue.links) > 1:  # further connections are closed when their last topic is gone
                await trio.sleep(0.005)
        assert relay.providers.statuses()[0]["state"] == "up"


async def test_a_topic_that_waits_moves_to_a_connection_with_room_and_is_fresh_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(liveness, "SETTLES", 0.0)
    heard, hear = hearing()
    venue = FeedSimulator()
    async with (
        venue.serve() as address,
        running_relay({"acme": {"adapter": "acme", "url": address.ws, "linger": 0}}, stranger=Plugin()) as relay,
    ):

        def subscriber(symbols: str) -> Subscriber:
            return Subscriber(lambda: port_of(relay), OUR_APP, [f"quote.acme.{each}" for each in symbols], heard=hear)  # type: ignore[arg-type]

        leaving = trio.CancelScope()

        async def run_until_it_leaves(subscriber: Subscriber) -> None:
            with leaving:
                await subscriber.run()

        async with trio.open_nursery() as nursery:
            stays, leaves, waits = subscriber("ABEF"), subscriber("CD"), subscriber("G")
            nursery.start_soon(stays.run)
            await stays.until(lambda: set(heard) >= set("ABEF"))
            nursery.start_soon(run_until_it_leaves, leaves)
            await leaves.until(lambda: set(heard) >= set("CD"))
            nursery.start_soon(waits.run)
            await waits.until(lambda: heard.get("G") == ["STALE"])
            full = {frozenset(link.state) for link in venue.links}
            leaving.cancel()
            await waits.until(lambda: heard["G"] == ["STALE", "FRESH", "1"])
            assert venue.link("G").state == {"G"}
            assert {frozenset("AB"), frozenset("EF")} < full
            nursery.cancel_scope.cancel()


async def test_all_topics_have_a_connection_after_any_coming_and_going() -> None:
    venue, chance = FeedSimulator(), random.Random(7)
    closed: list[int] = []
    async with (
        venue.serve() as address,
        running_relay({"acme": {"adapter": "acme", "url": address.ws, "linger": 0}}, stranger=Plugin()) as relay,
    ):
        pool = relay.providers.find("acme").session(Topic(kind="quote", symbol="A"))
        wanted: set[str] = set()
        for step in range(300):
            symbol = chance.choice("ABCDEFGHIJ")
            topic = Topic(kind="quote", symbol=symbol)
            if symbol in wanted:
                wanted.remove(symbol)
                pool.unwant(topic)
            else:
                wanted.add(symbol)
                pool.want(topic, BY)
            closed += [len(link.state) for link in venue.links if link.state and len(link.state) > 2]
            if step % 3 == 0:
                await trio.lowlevel.checkpoint()
            if step % 20 == 0:
                while len(wanted) > 6:
                    pool.unwant(Topic(kind="quote", symbol=wanted.pop()))
                with trio.fail_after(WITHIN):
                    while sorted(each for link in venue.links for each in link.state or ()) != sorted(wanted):
                        await trio.sleep(0.001)
        assert closed == []
