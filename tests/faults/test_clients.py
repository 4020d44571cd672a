"""The line between the relay and a subscriber breaks; the subscriber comes back by itself and has missed nothing."""

from decimal import Decimal

import pytest
import trio

from relay.testing.faults import Corrupt, Cut, HalfOpen, Reset, Stall, Throttle
from support.deadlines import WITHIN
from support.faulty import rig

QUOTE, DEPTH, TRADES = "quote.synthetic.BTC-USD", "depth.synthetic.BTC-USD", "public_trade.synthetic.ETH-USD"
LINE = {
    "cut": Cut(),
    "reset": Reset(),
    "stalled": Stall(),
    "half open": HalfOpen(),
    "not JSON": Corrupt("text"),
    "not UTF-8": Corrupt("utf8"),
    "not RFC 6455": Corrupt("frame"),
}


def truth(r, symbol="BTC/USD"):
    """The simulator's book, as numbers."""
    book, instrument = r.simulator.market.book(symbol), r.simulator.market.instrument(symbol)
    return tuple(
        {Decimal(instrument.price_text(price)): Decimal(instrument.size_text(size)) for price, size in side}
        for side in (book.bids, book.asks)
    )


async def agrees(r, within=60):
    """Stop the market and wait until the subscriber's book and quote are the simulator's."""
    r.simulator._rate = 0
    market, view = r.simulator.market, r.subscriber.views

    def same():
        moved, last = market.quote("BTC/USD"), view[QUOTE].last.get("quote")
        price = market.instrument("BTC/USD").price_text
        quoted = last is not None and (last["quote"]["bid"], last["quote"]["ask"]) == (
            price(moved.bid),
            price(moved.ask),
        )
        return quoted and (view[DEPTH].bids, view[DEPTH].asks) == truth(r)

    await r.subscriber.until(same, within)


@pytest.mark.parametrize("fault", LINE)
async def test_a_subscriber_s_line_that_breaks(fault):
    async with rig("synthetic", every=0.02, pong_timeout=2) as r:
        r.downstream.inject(LINE[fault])
        await r.subscriber.until(lambda: r.subscriber.connections >= 2)
        await r.flowing(since=len(r.heard))
        await agrees(r)
        assert r.problems() == []
        for view in r.subscriber.views.values():
            assert (view.skipped, view.lost) == (0, 0)  # what was missed was given when it resumed
        assert r.states() in ([], [("CONNECTED", "")])  # the provider's session knows nothing of it


async def test_a_slow_subscriber_gets_what_its_policies_say_and_ends_up_right():
    async with rig("synthetic", every=0.005, buffer=4096) as r:
        r.downstream.inject(Throttle(4000))
        with trio.fail_after(WITHIN):
            while not {"conflate", "snapshot"} <= {
                policy for policy, count in r.relay.hub.snapshot()["dropped"].items() if count
            }:
                await trio.sleep(0.05)
        r.downstream.heal()
        await agrees(r)
        assert r.problems() == []
        assert r.subscriber.views[QUOTE].skipped > 0


async def test_the_relay_forgets_a_subscriber_that_is_gone_without_a_word(monkeypatch):
    from support import running

    monkeypatch.setitem(running.APP, "activity_timeout", 1)
    monkeypatch.setitem(running.APP, "pong_timeout", 1)
    async with rig("synthetic", every=0.02, pong_timeout=2) as r:
        r.downstream.inject(Stall())
        await r.subscriber.until(lambda: r.subscriber.connections >= 2)
        with trio.fail_after(WITHIN):
            while r.relay.hub.connections != 1:
                await trio.sleep(0.05)
        await agrees(r)
