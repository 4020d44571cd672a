"""Timetables: what they say, in which zone, over the end of the week and over a change of the clocks."""

from datetime import datetime

import pytest

from relay.model.hours import Hours

NEW_YORK = "America/New_York"
FOREX = Hours("Sun 17:00-Fri 17:00", NEW_YORK)
STOCKS = Hours("Mon-Fri 09:30-16:00", NEW_YORK)


def ns(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * 1_000_000_000


@pytest.mark.parametrize(
    ("hours", "at", "opened", "opens"),
    [
        (FOREX, "2026-06-03T12:00Z", "2026-05-31T21:00Z", "2026-06-07T21:00Z"),
        (FOREX, "2026-06-05T20:59:59Z", "2026-05-31T21:00Z", "2026-06-07T21:00Z"),
        (FOREX, "2026-06-05T21:00Z", None, "2026-06-07T21:00Z"),  # Friday 17:00 in New York
        (FOREX, "2026-06-06T12:00Z", None, "2026-06-07T21:00Z"),
        (FOREX, "2026-06-07T21:00Z", "2026-06-07T21:00Z", "2026-06-07T21:00Z"),
        (FOREX, "2026-01-10T12:00Z", None, "2026-01-11T22:00Z"),  # winter: an hour later in UTC
        (FOREX, "2026-03-07T12:00Z", None, "2026-03-08T21:00Z"),  # the clocks change on this very Sunday
        (STOCKS, "2026-06-03T13:29:59Z", None, "2026-06-03T13:30Z"),
        (STOCKS, "2026-06-03T15:00Z", "2026-06-03T13:30Z", "2026-06-04T13:30Z"),
        (STOCKS, "2026-06-05T20:00Z", None, "2026-06-08T13:30Z"),
        (Hours("Sat-Sun 22:00-02:00"), "2026-06-08T01:00Z", "2026-06-07T22:00Z", "2026-06-13T22:00Z"),
        (Hours("Sat 10:00-12:00, Mon 00:00-24:00"), "2026-06-08T23:59Z", "2026-06-08T00:00Z", "2026-06-13T10:00Z"),
        (Hours("Mon-Fri 00:00-24:00"), "2026-06-10T12:00Z", "2026-06-08T00:00Z", "2026-06-15T00:00Z"),  # since Monday
        (Hours("Sun 22:00-24:00, Mon 00:00-10:00"), "2026-06-08T01:00Z", "2026-06-07T22:00Z", "2026-06-14T22:00Z"),
    ],
)
def test_when_it_trades(hours: Hours, at: str, opened: str | None, opens: str) -> None:
    assert hours.opened(ns(at)) == (None if opened is None else ns(opened))
    assert hours.opens(ns(at)) == ns(opens)


@pytest.mark.parametrize(
    ("text", "hours"),
    [
        ("Sun 17:00-Fri 17:00 America/New_York", FOREX),
        (" Mon-Fri 09:30-16:00 ", Hours("Mon-Fri 09:30-16:00")),
        (
            "Mon-Fri 09:30-12:00, Mon-Fri 13:00-16:00 Asia/Tokyo",
            Hours("Mon-Fri 09:30-12:00, Mon-Fri 13:00-16:00", "Asia/Tokyo"),
        ),
    ],
)
def test_as_it_is_written_in_a_configuration(text: str, hours: Hours) -> None:
    assert Hours.parse(text) == hours


def test_always_is_open_since_long_ago() -> None:
    always = Hours.parse("always")
    for at in ("2026-06-08T00:00Z", "2026-06-10T12:00Z", "2026-06-14T23:59:59Z"):
        opened = always.opened(ns(at))
        assert opened is not None
        assert ns(at) - opened >= 7 * 86_400 * 1_000_000_000


@pytest.mark.parametrize("text", ["", "always or never", "Mon-Fri", "New_York", "Mon-Fri 09:30-16:00 Nowhere"])
def test_what_a_configuration_cannot_mean_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="timetable|no such time zone"):
        Hours.parse(text)


@pytest.mark.parametrize(
    "text", ["", "always", "Mon 25:00-Tue 01:00", "Mon 24:01-Tue 01:00", "Mon-Fri 9:30-16:00", "Mon 10:70-11:00"]
)
def test_what_is_no_timetable_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"timetable|no time of a day"):
        Hours(text)


@pytest.mark.parametrize("zone", ["New York", "", "../etc/passwd"])
def test_a_zone_that_is_none_is_named(zone: str) -> None:
    with pytest.raises(ValueError, match="no such time zone"):
        Hours("Mon-Fri 09:30-16:00", zone)
