"""The hours of a market: a weekly timetable in a time zone.

Written as people write it, spans separated by commas: ``Sun 17:00-Fri 17:00`` (one span over days), ``Mon-Fri 09:30-16:00``
(the same span on each of these days), ``Sat 10:00-14:00``. A time up to ``24:00``; a span ends before the minute it names,
and may run over the end of the week. Spans that touch are one: trading that goes on at midnight did not begin there.

Holidays and half days are dates with hours of their own (`Hours.dated`): all that the week has on that day is replaced.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from attrs import evolve, field, frozen

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY = "|".join(_DAYS)
_TIME = r"(\d\d):(\d\d)"
_over_days = re.compile(rf"({_DAY}) {_TIME}-({_DAY}) {_TIME}").fullmatch
_each_day = re.compile(rf"({_DAY})(?:-({_DAY}))? {_TIME}-{_TIME}").fullmatch
_on_a_day = re.compile(rf"{_TIME}-{_TIME}").fullmatch
_ends_in_a_time = re.compile(rf".*{_TIME}").fullmatch
_WEEK = 7 * 24 * 60
_SECOND = 1_000_000_000

#: Minutes from Monday 00:00, the end behind the start even where that is behind the end of the week.
Span = tuple[int, int]


@frozen
class Hours:
    """A timetable. Times that go in and come out are Unix nanoseconds.

    Attributes:
        text: the spans, as above.
        zone: name of the time zone they are meant in (IANA time zone database).
        dates: days with hours of their own, as pairs of the date and its spans (``09:30-13:00``); empty spans: closed.

    Raises:
        ValueError: the text is no timetable, or there is no such zone.
    """

    text: str
    zone: str = "UTC"
    dates: tuple[tuple[str, str], ...] = ()
    _spans: tuple[Span, ...] = field(init=False, repr=False, eq=False)
    _dates: tuple[tuple[date, tuple[Span, ...]], ...] = field(init=False, repr=False, eq=False)
    _zone: ZoneInfo = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        spans = tuple(span for part in self.text.split(",") for span in _read(part.strip()))
        object.__setattr__(self, "_spans", spans)
        object.__setattr__(self, "_dates", tuple((date.fromisoformat(day), _of_day(text)) for day, text in self.dates))
        try:
            object.__setattr__(self, "_zone", ZoneInfo(self.zone))
        except (KeyError, ValueError) as error:
            raise ValueError(f"no such time zone: {self.zone!r}") from error

    @classmethod
    def parse(cls, text: str) -> "Hours":
        """Read a timetable with its zone at the end, ``Sun 17:00-Fri 17:00 America/New_York`` (UTC where there is none).

        ``always`` is the timetable of a market that never closes.

        Raises:
            ValueError: it is none.
        """
        text = text.strip()
        if text == "always":
            return cls("Mon-Sun 00:00-24:00")
        spans, _, zone = text.rpartition(" ")
        return cls(spans, zone) if spans and not _ends_in_a_time(text) else cls(text)

    def dated(self, dates: Mapping[str, str]) -> "Hours":
        """Return the timetable with these days in place of those it has.

        Raises:
            ValueError: a date is none, or its spans are none.
        """
        return evolve(self, dates=tuple(sorted(dates.items())))

    def opened(self, unix_ns: int) -> int | None:
        """Return when the trading hours around ``unix_ns`` began, at most two weeks ago; None while the market is closed."""
        return next((start for start, end in self._around(unix_ns) if start <= unix_ns < end), None)

    def opens(self, unix_ns: int) -> int:
        """Return the first opening at or behind ``unix_ns``; that moment itself where the market never closes."""
        return next((start for start, _ in self._around(unix_ns) if start >= unix_ns), unix_ns)

    def _around(self, unix_ns: int) -> list[Span]:
        """Return the open spans of the last week, this one and the next, as instants in order. Spans that touch are
        joined.
        """
        local = datetime.fromtimestamp(unix_ns // _SECOND, self._zone).replace(tzinfo=None)
        monday = local.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=local.weekday())
        spans = [
            (self._instant(monday, week, start), self._instant(monday, week, end))
            for week in (-7, 0, 7)
            for start, end in self._spans
        ]
        for day, own in self._dates:
            days = (day - monday.date()).days
            if -8 <= days <= 15:
                begins, ends = self._instant(monday, days, 0), self._instant(monday, days + 1, 0)
                spans = [piece for span in spans for piece in _without(span, begins, ends)]
                spans += [(self._instant(monday, days, start), self._instant(monday, days, end)) for start, end in own]
        joined: list[Span] = []
        for start, end in sorted(spans):
            if joined and start <= joined[-1][1]:
                joined[-1] = joined[-1][0], max(joined[-1][1], end)
            else:
                joined.append((start, end))
        return joined

    def _instant(self, monday: datetime, days: int, minutes: int) -> int:
        """Return the instant of a local time, so that a week with a change to summer time keeps its hours."""
        local = monday + timedelta(days=days, minutes=minutes)
        return int(local.replace(tzinfo=self._zone).timestamp()) * _SECOND


def _read(part: str) -> Iterator[Span]:
    if match := _over_days(part):
        day, hour, minute, last, to_hour, to_minute = match.groups()
        yield _span(_DAYS.index(day), _clock(hour, minute, part), _DAYS.index(last), _clock(to_hour, to_minute, part))
    elif match := _each_day(part):
        day, last, hour, minute, to_hour, to_minute = match.groups()
        first, count = _DAYS.index(day), (_DAYS.index(last or day) - _DAYS.index(day)) % 7 + 1
        start, end = _clock(hour, minute, part), _clock(to_hour, to_minute, part)
        for number in range(first, first + count):
            yield _span(number % 7, start, number % 7 if start < end else (number + 1) % 7, end)
    else:
        raise ValueError(f"not a timetable such as 'Sun 17:00-Fri 17:00' or 'Mon-Fri 09:30-16:00': {part!r:.64}")


def _of_day(text: str) -> tuple[Span, ...]:
    """Return the spans of one day as minutes of it."""
    spans = []
    for part in filter(None, map(str.strip, text.split(","))):
        match = _on_a_day(part)
        if match is None:
            raise ValueError(f"no hours of a day such as '09:30-13:00': {part!r:.64}")
        start, end = _clock(match[1], match[2], part), _clock(match[3], match[4], part)
        if start >= end:
            raise ValueError(f"hours of a day end before they begin: {part!r:.64}")
        spans.append((start, end))
    return tuple(spans)


def _without(span: Span, begins: int, ends: int) -> Iterator[Span]:
    """Yield what is left of a span without a day."""
    if span[0] < begins:
        yield span[0], min(span[1], begins)
    if span[1] > ends:
        yield max(span[0], ends), span[1]


def _clock(hour: str, minute: str, part: str) -> int:
    minutes = int(hour) * 60 + int(minute)
    if minutes > 24 * 60 or int(minute) > 59:
        raise ValueError(f"no time of a day in {part!r}")
    return minutes


def _span(day: int, start: int, last: int, end: int) -> Span:
    begins, ends = day * 24 * 60 + start, last * 24 * 60 + end
    return begins, ends if ends > begins else ends + _WEEK
