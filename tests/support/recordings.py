"""Where the recordings of real sessions are, and a way to run one through an adapter without a socket.

They are not part of the project: they lie in a directory beside it, or where ``TICKRELAY_RECORDINGS`` says.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

from relay.adapter import Adapter, Answer, Context, Fetch, Signal, Snapshot, Symbols, Unknown
from relay.model.channels import Topic
from relay.model.events import Event
from relay.testing.recording import Record, Recording, RequestKey, read_recording, request_key
from support.tools import missing

BESIDE_THE_PROJECT = Path(__file__).resolve().parents[3] / "shared" / "recordings"


def recording_path(name: str) -> Path:
    """Return the path of a recording; skip the running test where it is absent, fail it where tools are required."""
    path = Path(os.environ.get("TICKRELAY_RECORDINGS", BESIDE_THE_PROJECT)) / name
    if not path.is_file():
        missing("recordings of real sessions", "set TICKRELAY_RECORDINGS to their directory")
    return path


def load_recording(name: str) -> Recording:
    """Return a recording, as `recording_path` finds it."""
    return read_recording(recording_path(name))


@frozen
class Decoded:
    """The result of one record: in ``results`` events and signals in order."""

    record: Record
    results: tuple[Event | Signal, ...]


def new_adapter(adapter_class: type[Adapter], **options: str) -> Adapter:
    """Return an adapter as a new connection has it: a context of its own, options defaulted."""
    context = Context(provider=adapter_class.name, options={**adapter_class.defaults(), **options})
    return adapter_class(context)


def decode(adapter: Adapter, message: str) -> tuple[Event | Signal, ...]:
    """Decode one message as a session does: all of it, or one Unknown where it raises."""
    try:
        return tuple(adapter.decode(message))
    except Exception as error:  # noqa: BLE001 - whatever a decode raises becomes an Unknown
        return (Unknown(message, repr(error)),)


def run_through(adapter: Adapter, recording: Recording) -> Iterator[Decoded]:
    """Yield what the adapter makes of every frame and HTTP answer of a recording, in recorded order.

    An answer goes to the fetch of the adapter's that has its method, path and query: one of ``prepare()``, or the book of
    any symbol known by then. One that no fetch asks for is left out: who recorded it asked for more.
    """
    fetches: dict[RequestKey, Fetch] = {}
    known = -1
    for record in recording.records:
        if record.dir == "in":
            text = record.data if isinstance(record.data, str) else record.data.decode()
            yield Decoded(record, decode(adapter, text))
        elif record.dir == "http":
            key = request_key(record.method, record.url)
            if key not in fetches and len(adapter.symbols) != known:
                fetches.update(_by_request(adapter))
                known = len(adapter.symbols)
            if key not in fetches:
                continue
            answer = Answer(status=record.status, text=str(record.data))
            items = tuple(adapter.fetched(fetches[key].tag, answer))
            for item in items:
                if isinstance(item, Symbols):
                    adapter.symbols.learn(item.pairs)
            yield Decoded(record, tuple(item for item in items if not isinstance(item, Symbols)))


def _by_request(adapter: Adapter) -> dict[RequestKey, Fetch]:
    wanted = [*adapter.prepare()]
    for _, symbol in adapter.symbols:
        wanted += [*adapter.encode(Snapshot(Topic(kind="depth", symbol=symbol)))]
    return {_fetch_key(fetch): fetch for fetch in wanted}


def _fetch_key(fetch: Fetch) -> RequestKey:
    query = "&".join(f"{name}={value}" for name, value in fetch.query.items())
    return request_key(fetch.method, f"{fetch.url}?{query}")
