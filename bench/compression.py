"""Measure what permessage-deflate costs and saves: quotes to plain and to compressed subscribers, turn by turn; a compression by itself.

An event is compressed once however many subscribers get it, so what that adds to a delivery falls with their number.
"""

import time
import zlib
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

from fanout import turn

from relay.hub import encoding
from relay.hub.encoding import PublishedEvent
from relay.model.events import Depth, Event, Quote, Stamp
from relay.websocket import deflate
from relay.websocket.frames import compressed
from support.processes import connected, relay
from support.report import arguments, median, report

CHANNEL = "quote.p0.S0"
OFFER = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
PLANS = ((10, 1, 300, 5), (100, 1, 100, 5), (1000, 1, 30, 7), (1000, 16, 6, 5))
"""Subscribers, quotes per flush, rounds per turn, pairs of turns."""
LEVELS = (1, deflate.LEVEL, 6, 9)


def compare(subscribers: int, batch: int, rounds: int, pairs: int) -> dict[str, Any]:
    """One row: the same quotes from a plain relay and from one that compresses."""
    pause = max(2000, min(20_000, subscribers * batch))
    sizes: tuple[list[float], list[float]] = [], []
    costs: tuple[list[float], list[float]] = [], []
    quote = '{"event":"quote"'
    with (
        connected(relay(), subscribers, CHANNEL, prefix=quote) as plain,
        connected(relay("1", "compression=true"), subscribers, CHANNEL, prefix=quote, header=OFFER) as packed,
    ):
        for _ in range(pairs):
            for number, (server, client) in enumerate((plain, packed)):
                cost, got = turn(server, client, f"quotes {{}} {batch} {pause} 1 1", rounds, subscribers * batch)
                costs[number].append(cost)
                sizes[number].append(got.bytes / got.total)
    return {
        "subscribers": subscribers,
        "per flush": batch,
        "plain us": median(costs[0]),
        "compressed us": median(costs[1]),
        "ratio": round(median([b / a for a, b in zip(*costs, strict=True)]), 2),
        "plain bytes": round(median(sizes[0])),
        "compressed bytes": round(median(sizes[1])),
    }


def frame(event: Event, channel: str) -> bytes:
    """The event as subscribers get it."""
    stamp = Stamp(provider="binance", received_at="2025-01-15T10:30:00.123456Z")
    entry = PublishedEvent(event, stamp, "k3j2-1f").entry(12345, 0.0, event.kind)
    return encoding.frame(entry.head, encoding.encode_middle(channel), entry.tail)


def samples() -> dict[str, bytes]:
    """Frames by what they are."""

    random = Random(1)

    def side(levels: int) -> list[tuple[str, str]]:
        return [(f"{random.uniform(42_000, 42_100):.2f}", f"{random.uniform(0, 10):.5f}") for _ in range(levels)]

    quote = Quote(symbol="BTC/USDT", native_symbol="BTCUSDT", bid="42123.45", ask="42123.46", bid_size="1.23456", ask_size="0.45678", time="2025-01-15T10:30:00.120Z")  # fmt: skip
    found = {"quote": frame(quote, "quote.binance.BTC-USDT")}
    for levels in (10, 100, 2000):
        depth = Depth(symbol="BTC/USDT", bids=side(levels // 2), asks=side(levels // 2), snapshot=levels > 10)
        found[f"depth of {levels} levels"] = frame(depth, "depth.binance.BTC-USDT")
    return found


def took(what: Callable[[], object]) -> float:
    """The least us of several runs, caches warm."""
    runs = []
    for _ in range(7):
        start = time.perf_counter()
        for _ in range(50):
            what()
        runs.append((time.perf_counter() - start) / 50)
    return min(runs) * 1e6


def cold(plain: bytes) -> float:
    """The median us of one compression after a pause, as between two events of a quiet feed."""
    runs = []
    for _ in range(200):
        time.sleep(0.002)
        start = time.thread_time()
        compressed(plain)
        runs.append(time.thread_time() - start)
    return median(runs) * 1e6


def at_level(payload: bytes, level: int) -> bytes:
    """As `deflate.deflated`, at another level."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -deflate.WINDOW_BITS, deflate.MEMORY_LEVEL)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def notes() -> list[str]:
    """Describe one compression: its size and time at the level in use and at others."""
    lines = []
    for name, plain in samples().items():
        size = f"{len(plain)} -> {len(compressed(plain))} bytes"
        lines.append(f"{name}: {size}, {took(partial(compressed, plain)):.1f} us, after a pause {cold(plain):.1f} us")
        payload = plain[4 if len(plain) < 65_540 else 10 :]
        for level in LEVELS:
            made = f"{len(at_level(payload, level))} bytes, {took(partial(at_level, payload, level)):.1f} us"
            lines.append(f"  payload at level {level}: {made}")
    return lines


def main() -> None:
    """Run the bench."""
    options = arguments(__doc__, subscribers=0)
    rows = [compare(*plan) for plan in PLANS if options.subscribers in (0, plan[0])]
    report(options, "compression: server CPU and bytes per delivery of a quote", rows, notes())


if __name__ == "__main__":
    main()
