"""A market falls silent on a live line: STALE as the operator set it, one new request, FRESH; and not while it is closed."""

import time
from datetime import UTC, datetime, timedelta

import pytest
import trio

from support.faulty import rig

SILENCE = 1.0


def told(r, since):
    """Return the staleness events of quotes, on their own channel."""
    return [event["event"] for event in r.on(r.market, since=since) if event["type"] == "staleness"]


def asked(r):
    """Return the number of requests for quotes."""
    (link,) = r.simulator.links
    return sum('"op":"subscribe"' in text and "quote" in text for text in map(str, link.received))


async def test_a_silent_stream_is_stale_asked_for_once_more_and_fresh_again():
    async with rig("synthetic", configured={"stale_after": {"quote BTC/USD": SILENCE}}) as r:
        since, requests = len(r.heard), asked(r)
        r.simulator._rate = 0
        await r.subscriber.until(lambda: told(r, since)[-1:] == ["STALE"])
        await trio.sleep(3 * SILENCE)
        r.simulator.tick()
        await r.subscriber.until(lambda: told(r, since)[-1:] == ["FRESH"])
        await r.subscriber.until(lambda: r.on(r.market, since=since)[-1]["type"] == "quote")
        # A machine that stands still for longer than SILENCE has it told, and asked for, once more.
        times = told(r, since).count("STALE")
        assert told(r, since) == ["STALE", "FRESH"] * times
        assert asked(r) == requests + times
        assert r.states(since=since) == []
        assert r.problems() == []


@pytest.mark.parametrize("hours", ["closed", "always"])
async def test_a_market_that_is_closed_is_not_stale(hours):
    day = (datetime.fromtimestamp(time.time(), UTC) + timedelta(days=3)).strftime("%a")
    timetable = f"{day} 00:00-24:00" if hours == "closed" else "always"
    configured = {"stale_after": {"quote": SILENCE}, "hours": {"default": timetable}}
    async with rig("synthetic", configured=configured) as r:
        since = len(r.heard)
        r.simulator._rate = 0
        if hours == "always":
            await r.subscriber.until(lambda: told(r, since)[-1:] == ["STALE"])
            return
        await trio.sleep(4 * SILENCE)
        quotes = r.on(r.market)[-1]["seq"]
        r.simulator.tick()
        await r.subscriber.until(lambda: r.on(r.market)[-1]["seq"] > quotes)
        assert told(r, since) == []
