"""Reading providers: each adapter on a recorded session, in microseconds per message and per event.

`decode` is the adapter alone: text in, checked canonical events out. `encode` writes an event's canonical JSON, as the hub
does once per event. Rows `one quote` are a provider's message with best bid and offer, the least a relay does.

The sessions are the adapters' fixtures, and the recordings beside the project where they are (`TICKRELAY_RECORDINGS`).
cryptofeed, from PyPI in an environment of its own, plays the same recordings where it can be installed (`--peer 0`: not);
its handlers (compiled in part) also keep the books, which here is another room's work and not in these figures.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import Any

from relay.adapter import Adapter, Answer, Context, Fetch, Snapshot, Symbols
from relay.model.channels import Topic
from relay.model.events import Event, Quote, Stamp
from relay.model.serialize import encode
from relay.plugins.manager import load_plugins
from relay.testing.recording import Recording, RequestKey, read_recording, request_key
from relay.testing.subject import Read
from support import cryptofeed_peer
from support.processes import CLIENT_CORE, Unavailable
from support.report import arguments, median, report

ROOT = Path(__file__).resolve().parents[1]
RECORDINGS = Path(os.environ.get("TICKRELAY_RECORDINGS", ROOT.parent / "shared" / "recordings"))
#: The recordings whose names are not their adapters'.
RECORDED = {"binance": "binance_us"}
STAMP = Stamp(provider="bench", received_at="2025-01-15T10:30:00.123456Z")


def new(adapter_class: type[Adapter]) -> Adapter:
    """An adapter as a new connection has it."""
    credentials = dict.fromkeys(adapter_class.credentials, "credential-of-the-bench")
    context = Context(
        provider=adapter_class.name, account="bench", options=adapter_class.defaults(), credentials=credentials
    )
    return adapter_class(context)


def fetches(adapter: Adapter) -> dict[RequestKey, Fetch]:
    """Return the fetches of the adapter, by the request."""
    wanted = [*adapter.prepare()]
    for _, symbol in adapter.symbols:
        wanted += [
            item for item in adapter.encode(Snapshot(Topic(kind="depth", symbol=symbol))) if isinstance(item, Fetch)
        ]
    return {
        request_key(
            fetch.method, f"{fetch.url}?{'&'.join(f'{name}={value}' for name, value in fetch.query.items())}"
        ): fetch
        for fetch in wanted
    }


def play(adapter: Adapter, recording: Recording) -> Iterator[tuple[float, list[Event]]]:
    """Per received message: the seconds it took to decode, and its events. Answers are given in between, untimed."""
    known: dict[RequestKey, Fetch] = {}
    clock = time.perf_counter
    for record in recording.records:
        if record.dir == "in":
            text = record.data if isinstance(record.data, str) else record.data.decode()
            start = clock()
            try:
                items = list(adapter.decode(text))
            except Exception:  # noqa: BLE001 - it lacks the subscriptions a session would have told it of
                continue
            took = clock() - start
            yield took, list(Read(tuple(items)).events)
        elif record.dir == "http":
            key = request_key(record.method, record.url)
            known = known if key in known else fetches(adapter)
            if key in known:
                answer = Answer(status=record.status, text=str(record.data))
                for item in adapter.fetched(known[key].tag, answer):
                    if isinstance(item, Symbols):
                        adapter.symbols.learn(item.pairs)


def written(events: list[Event]) -> float:
    """Seconds to encode them all."""
    start = time.perf_counter()
    for event in events:
        encode(event, STAMP, "5f3a-1")
    return time.perf_counter() - start


def measure(adapter_class: type[Adapter], source: str, path: Path, passes: int) -> dict[str, Any]:
    """One row: medians of several passes over a session, each with an adapter that has learned nothing yet."""
    recording = read_recording(path)
    decodes, encodes, messages, events = [], [], 0, 0
    for _ in range(passes):
        played = list(play(new(adapter_class), recording))
        found = [event for _, of_message in played for event in of_message]
        decodes.append(sum(took for took, _ in played))
        encodes.append(written(found))
        messages, events = len(played), len(found)
    decode_us, encode_us = median(decodes) * 1e6, median(encodes) * 1e6
    return {
        "adapter": adapter_class.name,
        "session": source,
        "messages": messages,
        "events": events,
        "decode us/message": decode_us / messages,
        "decode us/event": decode_us / max(events, 1),
        "encode us/event": encode_us / max(events, 1),
        "events/s": round(events / (decode_us + encode_us) * 1e6),
    }


def one_quote(adapter_class: type[Adapter], path: Path, rounds: int = 5000) -> dict[str, Any] | None:
    """The row of a single quote of the fixture, with another bid in every message; None where the provider has none."""
    adapter, sample = new(adapter_class), None
    for record in read_recording(path).records:
        if record.dir == "in" and sample is None:
            with contextlib.suppress(Exception):
                match list(adapter.decode(str(record.data))):
                    case [Quote(bid=str(bid))] if str(record.data).count(bid) == 1:
                        sample = str(record.data), bid
    if sample is None:
        return None
    text, bid = sample
    messages = [text.replace(bid, f"{number / 100 + 1:.2f}") for number in range(rounds)]
    best: tuple[float, float] = (inf, inf)
    for _ in range(7):
        start = time.perf_counter()
        quotes: list[Any] = [event for message in messages for event in adapter.decode(message)]
        middle = time.perf_counter()
        best = min(best, ((middle - start) / rounds * 1e6, written(quotes) / rounds * 1e6))
    return {
        "adapter": adapter_class.name,
        "session": f"one quote, {len(text)} bytes",
        "messages": rounds,
        "events": rounds,
        "decode us/message": best[0],
        "decode us/event": best[0],
        "encode us/event": best[1],
        "events/s": round(1e6 / sum(best)),
    }


def main() -> None:
    """Run the bench."""
    options = arguments(__doc__, passes=5, peer=1)
    os.sched_setaffinity(0, {CLIENT_CORE})
    adapters = load_plugins().adapters()
    rows, notes = [], []
    for name, adapter_class in sorted(adapters.items()):
        recorded = RECORDINGS / f"{RECORDED.get(name, name)}.jsonl"
        if recorded.is_file():
            rows.append(measure(adapter_class, "recording", recorded, options.passes))
        fixture = ROOT / "tests" / "fixtures" / f"{name}.jsonl"
        if fixture.is_file():
            rows.append(measure(adapter_class, "fixture", fixture, 20 * options.passes))
            quote = one_quote(adapter_class, fixture)
            rows += [] if quote is None else [quote]
    if options.peer:
        try:
            peers, unplayable = cryptofeed_peer.measure(RECORDINGS, options.passes)
            rows, notes = rows + peers, notes + unplayable
        except Unavailable as missing:
            notes.append(f"cryptofeed: skipped, {missing}")
    report(options, "normalize: provider messages to canonical events and their JSON", rows, notes)


if __name__ == "__main__":
    main()
