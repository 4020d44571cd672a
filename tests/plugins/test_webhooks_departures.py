"""Departures are held back, taken back by the matching arrival, and told in order."""

from math import inf

import pytest

from relay.plugins.hookspecs import ChannelEvent
from relay_webhooks.departures import Departures


def event(name: str, channel: str = "presence-room", user_id: str | None = None, app_id: str = "3") -> ChannelEvent:
    return ChannelEvent(app_id=app_id, name=name, channel=channel, user_id=user_id)


VACATED, OCCUPIED = event("channel_vacated"), event("channel_occupied")
REMOVED, ADDED = event("member_removed", user_id="ann"), event("member_added", user_id="ann")


@pytest.fixture
def departures() -> Departures:
    return Departures(3.0)


@pytest.mark.parametrize(
    "name", ["channel_occupied", "member_added", "client_event", "cache_miss", "subscription_count"]
)
def test_what_is_no_departure_passes_at_once(departures: Departures, name: str) -> None:
    told = event(name)
    assert departures.pass_on(told, 0.0) == [told]
    assert departures.next_at == inf


def test_a_departure_is_told_after_the_delay(departures: Departures) -> None:
    assert departures.pass_on(VACATED, 10.0) == []
    assert departures.next_at == 13.0
    assert departures.due(12.9) == []
    assert departures.due(13.0) == [VACATED]
    assert len(departures) == 0


@pytest.mark.parametrize(("left", "returned"), [(VACATED, OCCUPIED), (REMOVED, ADDED)])
def test_who_returns_was_never_away(departures: Departures, left: ChannelEvent, returned: ChannelEvent) -> None:
    departures.pass_on(left, 0.0)
    assert departures.pass_on(returned, 2.9) == []
    assert departures.due(inf) == []


@pytest.mark.parametrize(("left", "returned"), [(VACATED, OCCUPIED), (REMOVED, ADDED)])
def test_who_returns_too_late_is_told_to_come(
    departures: Departures, left: ChannelEvent, returned: ChannelEvent
) -> None:
    departures.pass_on(left, 0.0)
    assert departures.due(3.0) == [left]
    assert departures.pass_on(returned, 3.0) == [returned]


@pytest.mark.parametrize(
    "other",
    [
        event("channel_occupied", channel="presence-other"),
        event("channel_occupied", app_id="4"),
        event("member_added", user_id="bob"),
        ADDED,
    ],
)
def test_the_arrival_of_another_takes_nothing_back(departures: Departures, other: ChannelEvent) -> None:
    departures.pass_on(VACATED, 0.0)
    departures.pass_on(event("member_removed", user_id="eve"), 0.0)
    assert departures.pass_on(other, 1.0) == [other]
    assert len(departures) == 2


def test_a_room_left_by_one_and_entered_by_another_stays_occupied(departures: Departures) -> None:
    for left in (REMOVED, VACATED):
        assert departures.pass_on(left, 0.0) == []
    bob = event("member_added", user_id="bob")
    assert [departures.pass_on(each, 1.0) for each in (OCCUPIED, bob)] == [[], [bob]]
    assert departures.due(3.0) == [REMOVED]


def test_each_leaving_starts_a_delay_of_its_own(departures: Departures) -> None:
    departures.pass_on(REMOVED, 0.0)
    departures.pass_on(ADDED, 1.0)
    departures.pass_on(REMOVED, 2.0)
    assert departures.due(4.9) == []
    assert departures.due(5.0) == [REMOVED]


def test_they_are_told_in_the_order_they_came(departures: Departures) -> None:
    left = [event("member_removed", user_id=str(n)) for n in range(5)]
    for n, each in enumerate(left):
        departures.pass_on(each, n / 10)
    assert departures.due(3.2) == left[:3]
    assert departures.due(inf) == left[3:]


def test_without_a_delay_nothing_is_held() -> None:
    departures = Departures(0.0)
    assert departures.pass_on(VACATED, 0.0) == [VACATED]
    assert departures.pass_on(OCCUPIED, 0.0) == [OCCUPIED]


def test_beyond_the_limit_the_oldest_is_told_early() -> None:
    departures = Departures(3.0, limit=2)
    left = [event("member_removed", user_id=str(n)) for n in range(3)]
    assert [departures.pass_on(each, 0.0) for each in left] == [[], [], left[:1]]
    returned = event("member_added", user_id="0")
    assert departures.pass_on(returned, 1.0) == [returned]
    assert departures.due(inf) == left[1:]
