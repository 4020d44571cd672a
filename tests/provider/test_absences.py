"""An absence is as long as the monotonic clock says; what was missed is asked for from a time that misses nothing."""

from typing import Any

import pytest

from relay.adapter import Fetch, Reconcile
from relay.model.events import Connection, Gap, Trade
from relay.model.text import from_nanos, to_ns
from relay.provider import session_events
from relay.provider.session_events import Now
from relay.provider.subscriptions import CLOCKS_DIFFER

UNIX = 1_700_000_000_000_000_000
SECOND = 1_000_000_000
HOUR = 3600 * SECOND


def back_after(rig: Any, *, clock_set: int = 0, fill_at: int | None = None) -> tuple[Any, int | None]:
    """A session that is lost at 100 s and back at 130 s; the rig, and since when it asks for what it missed (ns)."""
    asked: list[str | None] = []

    class Asks(rig.Venue):
        def encode(self, outgoing: Any) -> Any:
            match outgoing:
                case Reconcile(since):
                    asked.append(since)
                    yield Fetch(tag="open", url="/open")
                case _:
                    yield from super().encode(outgoing)

        def _item(self, item: Any) -> Any:
            match item:
                case ["fill", id, time]:
                    yield Trade(id=id, order_id="o", symbol="S", side="BUY", quantity="1", price="1", time=time)
                case _:
                    yield from super()._item(item)

    r = rig(adapter=Asks)
    r.want("account:main")
    r.up(0)
    r.say(["fill", "1", from_nanos(UNIX + 90 * SECOND if fill_at is None else fill_at)], at=90)
    r.do(session_events.Closed(1006), 100)
    r.fresh()
    r.clock_set = clock_set
    r.tick(120)
    r.do(session_events.Opened(), 130)
    return r, None if asked[-1] is None else to_ns(asked[-1])


@pytest.mark.parametrize("clock_set", [0, -HOUR, HOUR], ids=["not set", "set back", "set forward"])
def test_a_clock_that_is_set_meanwhile_does_not_change_the_length_of_an_absence(rig: Any, clock_set: int) -> None:
    r, since = back_after(rig, clock_set=clock_set)
    (connected,) = [event for event in r.events if isinstance(event, Connection) and event.event.name == "CONNECTED"][
        1:
    ]
    assert connected.gap_ms == 40_000  # since the last message, at 90 s
    assert since is not None
    assert since <= UNIX + 90 * SECOND - CLOCKS_DIFFER * SECOND
    (gap,) = [event for event in r.events if isinstance(event, Gap)]
    assert gap.refill.name == "REPLAY"
    assert to_ns(gap.since) <= to_ns(gap.until) - 40 * SECOND


def test_a_provider_whose_clock_is_behind_is_asked_by_its_own_time(rig: Any) -> None:
    behind = 120 * SECOND
    _, since = back_after(rig, fill_at=UNIX + 90 * SECOND - behind)
    assert since == UNIX + 90 * SECOND - behind - CLOCKS_DIFFER * SECOND


def test_a_provider_whose_clock_is_ahead_is_requested_no_less(rig: Any) -> None:
    _, since = back_after(rig, fill_at=UNIX + 90 * SECOND + 120 * SECOND)
    assert since == UNIX + 90 * SECOND - CLOCKS_DIFFER * SECOND


@pytest.mark.parametrize(("ahead", "kept"), [(-HOUR, -HOUR), (HOUR, 0), (None, 0)])
def test_when_something_was_heard_is_kept_by_the_earlier_of_both_clocks(rig: Any, ahead: int | None, kept: int) -> None:
    """Our clock may be an hour ahead, and right after a restart: by it alone nothing would have been missed."""
    core = rig().machine.core
    core.provider_ahead_ns = None if ahead is None else UNIX + ahead
    assert core.unix_ns_at(90, Now(100, UNIX + 100 * SECOND)) == UNIX + 90 * SECOND + kept
