"""Arbitrary interleavings of everything that can happen to a session, against a model of the provider.

The provider numbers its deltas and writes the number as the size of one price level, so a consumer's book is right exactly
when that level is the provider's last number. What must hold at every step: no delta before its snapshot or across an
unannounced hole, no quote sent on a live connection lost or published twice, none while its topic is said to be stale, every
state reported, the counters add up.
At the end, left in peace, every wanted topic is subscribed, or refused and said to be stale, and every wanted book converges to the provider's.
"""

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from relay.adapter import Answer, Backoff, Book, Rate, Sequence, dumps
from relay.model.events import Depth
from relay.provider import session_events
from relay.provider.session_state import SessionSettings

SYMBOLS = st.sampled_from("AB")
TOPICS = st.sampled_from(["quote:A", "quote:B", "depth:A", "depth:B"])
STATES = {
    "up": "CONNECTED",
    "waiting": "RECONNECTING",
    "dialling": "RECONNECTING",
    "opening": "RECONNECTING",
}


class Consumer:
    """A subscriber's view of the published events."""

    def __init__(self) -> None:
        self.state: str | None = None
        self.quotes: list[str] = []
        self.fills: list[str] = []
        self.last: dict[str, int | None] = {"A": None, "B": None}
        self.level: dict[str, str] = {}
        self.stale: set[str] = set()

    def take(self, event: Any) -> None:
        match event.kind:
            case "connection":
                self.state = str(event.event)
            case "gap" if event.of == "depth":
                self.last[event.symbol] = None
            case "staleness":
                named = {f"{event.of}:{symbol}" for symbol in event.symbols}
                self.stale = self.stale | named if event.event == "STALE" else self.stale - named
            case "quote":
                assert f"quote:{event.symbol}" not in self.stale, "data of a topic that is said to be stale"
                self.quotes.append(event.bid)
            case "trade":
                self.fills.append(event.id)
            case "depth":
                self.depth(event)

    def depth(self, event: Depth) -> None:
        before = self.last[event.symbol]
        if not event.snapshot:
            assert before is not None, "a delta before its snapshot"
            assert event.first_seq <= before + 1, "a delta across a hole"
            assert event.last_seq > before, "a delta that was contained"
        self.last[event.symbol] = event.last_seq
        ((_, self.level[event.symbol]),) = event.bids


def provider_model(rig: Any, book: Book, interest: Rate, linger: float) -> type[RuleBasedStateMachine]:
    class Provider(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.r = rig(
                book=book,
                sequence=Sequence(scope="topic", contiguous=True),
                backoff=Backoff(first=1, cap=4, settle=5),
                ack_within=5,
                topics_per_frame=2,
                limits=(interest, Rate(5, per=10, of="dial"), Rate(2, per=1, of="http")),
                silent_after=1e9,
                stale_after={"quote": 20, "depth": 40},
                settings=SessionSettings(linger=linger, book_buffer=4),
            )
            self.consumer = Consumer()
            self.seq = {"A": 0, "B": 0}
            self.subscribed: set[str] = set()
            self.unacked: list[str] = []
            self.fetches: list[Any] = []
            self.dialling = False
            self.connected = False
            self.sent_quotes: list[str] = []
            self.sent_fills: set[str] = set()
            self.wanted: set[str] = set()
            self.refused: set[str] = set()

        # --- plumbing

        def done(self, outputs: list[Any]) -> None:
            for output in outputs:
                match output:
                    case session_events.Dial():
                        self.dialling = True
                    case session_events.FetchRequest():
                        self.fetches.append(output)
                    case session_events.SendText():
                        (said,) = self.r.texts([output])
                        for name in said.get("unsub", ()):
                            self.subscribed.discard(name)
                        for name in said.get("sub", ()):
                            self.subscribe(name)
            for event in self.r.fresh():
                self.consumer.take(event)

        def subscribe(self, name: str) -> None:
            self.refused.discard(name)
            self.subscribed.add(name)
            self.unacked.append(name)
            if name.startswith("depth") and book is Book.DELTAS:
                self.snapshots_due.append(name[-1])

        snapshots_due: list[str]

        def say(self, *items: Any) -> None:
            self.done(self.r.say(*items))
            while book is Book.DELTAS and self.connected and self.snapshots_due:
                symbol = self.snapshots_due.pop(0)
                self.done(self.r.say(["snapshot", symbol, self.seq[symbol]]))

        def flush(self) -> None:
            self.say("alive")

        # --- what can happen

        @initialize(wanted=st.sets(TOPICS), settled=st.booleans())
        def start(self, wanted: set[str], settled: bool) -> None:
            self.snapshots_due = []
            self.done(self.r.do(session_events.Start(), 0))
            for name in sorted(wanted):
                self.want(name)
            if settled:
                self.the_dial_succeeds()
                self.settle()

        @rule(seconds=st.sampled_from([0.1, 0.1, 1, 3, 25]))
        def time_passes(self, seconds: float) -> None:
            end = self.r.now + seconds
            while (at := self.r.machine.deadline()) <= end:
                self.done(self.r.tick(max(at, self.r.now)))
                self.flush_if_up()
                if self.r.machine.deadline() <= self.r.now:
                    break
            self.done(self.r.tick(end))
            self.flush_if_up()

        def flush_if_up(self) -> None:
            if self.connected:
                self.flush()

        @rule(name=TOPICS)
        def want(self, name: str) -> None:
            self.wanted.add(name)
            self.done(self.r.want(name))
            self.flush_if_up()

        @rule(name=TOPICS)
        def unwant(self, name: str) -> None:
            self.wanted.discard(name)
            self.done(self.r.unwant(name))

        @rule(name=TOPICS, away=st.sampled_from([0.1, 1, 3]), late=st.booleans())
        def unwant_and_want_again(self, name: str, away: float, late: bool) -> None:
            """Behind others who use the budget up, so that the unsubscribe has to wait."""
            self.unwant(name)
            self.time_passes(linger)
            self.time_passes(away)
            self.want(name)
            if late and self.connected and self.unacked:
                self.acknowledge()

        @precondition(lambda self: self.dialling)
        @rule()
        def the_dial_succeeds(self) -> None:
            self.dialling, self.connected = False, True
            self.done(self.r.do(session_events.Opened()))
            self.flush()

        @precondition(lambda self: self.dialling)
        @rule()
        def the_dial_fails(self) -> None:
            self.dialling = False
            self.done(self.r.do(session_events.DialFailed("x")))

        @precondition(lambda self: self.connected)
        @rule()
        def the_connection_is_lost(self) -> None:
            self.connected = False
            self.subscribed.clear()
            self.unacked.clear()
            self.snapshots_due.clear()
            self.done(self.r.do(session_events.Closed(1006)))

        @precondition(lambda self: self.connected and self.unacked)
        @rule()
        def acknowledge(self) -> None:
            self.say(["ack", self.unacked.pop(0)])

        @precondition(lambda self: self.connected and any(name.startswith("quote") for name in self.unacked))
        @rule(reason=st.sampled_from(["no permission", "no such symbol"]))
        def refuse(self, reason: str) -> None:
            name = next(name for name in self.unacked if name.startswith("quote"))
            self.unacked.remove(name)
            self.subscribed.discard(name)
            self.refused.add(name)
            self.say(["nack", reason, name])

        @precondition(lambda self: self.connected)
        @rule(symbol=SYMBOLS)
        def a_quote(self, symbol: str) -> None:
            if f"quote:{symbol}" in self.subscribed:
                bid = str(len(self.sent_quotes) + 1)
                self.sent_quotes.append(bid)
                self.say(["quote", symbol, bid])

        @precondition(lambda self: self.connected)
        @rule(id=st.sampled_from(["f1", "f2", "f3"]))
        def a_fill_perhaps_again(self, id: str) -> None:
            self.sent_fills.add(id)
            self.say(["fill", id])

        @rule(symbol=SYMBOLS, lost=st.sampled_from([False, False, True]), count=st.integers(1, 3))
        def a_delta(self, symbol: str, lost: bool, count: int) -> None:
            first = self.seq[symbol] + 1
            self.seq[symbol] += count
            if self.connected and not lost and f"depth:{symbol}" in self.subscribed:
                self.say(["delta", symbol, first, self.seq[symbol]])

        @precondition(lambda self: self.connected)
        @rule(symbol=SYMBOLS, back=st.integers(0, 2))
        def an_old_delta_again(self, symbol: str, back: int) -> None:
            number = self.seq[symbol] - back
            if number > 0 and f"depth:{symbol}" in self.subscribed:
                self.say(["delta", symbol, number, number])

        @precondition(lambda self: self.connected)
        @rule()
        def nonsense(self) -> None:
            self.say("raise")

        @precondition(lambda self: self.fetches)
        @rule(late=st.integers(0, 4))
        def a_snapshot_is_answered(self, late: int) -> None:
            request = self.fetches.pop(0)
            symbol = request.fetch.tag[1]
            answer = Answer(status=200, text=dumps([["snapshot", symbol, max(0, self.seq[symbol] - late)]]))
            self.done(
                self.r.do(session_events.Fetched(request.id, Answer(status=500, text="") if late == 4 else answer))
            )

        # --- what must hold

        @invariant()
        def nothing_is_lost_or_repeated(self) -> None:
            assert self.consumer.quotes == self.sent_quotes
            assert sorted(self.consumer.fills) == sorted(self.sent_fills)

        @invariant()
        def the_counters_add_up(self) -> None:
            assert self.r.add_up()

        @invariant()
        def the_state_is_reported(self) -> None:
            if self.consumer.state is not None:
                assert self.consumer.state == STATES[self.r.machine.life.value]

        def settle(self) -> None:
            """Everything goes well for a moment."""
            if self.dialling:
                self.the_dial_succeeds()
            while self.unacked:
                self.acknowledge()
            for symbol in "AB":
                self.a_delta(symbol, False, 1)
            while self.fetches:
                self.a_snapshot_is_answered(0)

        def teardown(self) -> None:
            for _ in range(60):
                self.settle()
                self.time_passes(10)
            for name in self.wanted:
                assert name in self.subscribed or name in self.refused & self.consumer.stale, name
                if name.startswith("depth"):
                    assert self.consumer.level.get(name[-1]) == str(self.seq[name[-1]]), name

    return Provider


@pytest.mark.hypothesis
@pytest.mark.parametrize("book", [Book.FETCHED, Book.DELTAS])
@pytest.mark.parametrize(
    ("interest", "linger"), [(Rate(3, per=2, of="interest"), 3), (Rate(1, per=5, of="interest"), 0.1)]
)
def test_whatever_happens(rig: Any, book: Book, interest: Rate, linger: float) -> None:
    run_state_machine_as_test(
        provider_model(rig, book, interest, linger),
        settings=settings(
            stateful_step_count=40,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
