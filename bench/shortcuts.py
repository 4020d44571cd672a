"""Measure the gain of each shortcut of the fast path: the same work with it and without it, in CPU time.

Both ways take turns, a thousandth of a second or more at a time, and `gain` is the median of the ratios of neighbours. So a
machine that is busy, or that changes its pace, changes both.
"""

import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import attrs
import h11
import msgspec
import trio
import wsproto
from attrs import NOTHING, frozen

from relay.model import serialize, text
from relay.model.events import Event, PublicTrade, Quote, Stamp
from relay.server.fastpath.poller import Poller
from relay.server.fastpath.upgrade import read_upgrade
from relay.server.fastpath.uring import open_ring
from relay.websocket.frames import FrameParser, encode_text
from support.report import arguments, median, report

STAMP = Stamp(provider="bench", received_at="2025-01-15T10:30:00.123456Z")
UPGRADE = (
    b"GET /app/app-key?protocol=7&client=js&version=8.4.0&flash=false HTTP/1.1\r\nHost: feed.example.com\r\n"
    b"Connection: Upgrade\r\nPragma: no-cache\r\nCache-Control: no-cache\r\nUpgrade: websocket\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36\r\n"
    b"Origin: https://app.example.com\r\nSec-WebSocket-Version: 13\r\nAccept-Encoding: gzip, deflate, br\r\n"
    b"Accept-Language: en-US,en;q=0.9\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
)
QUOTE = {"symbol": "EUR/USD", "bid": "1.08501", "ask": "1.08503", "bid_size": "1000000", "ask_size": "2000000",
         "time": "2025-01-15T10:30:00.120Z"}  # fmt: skip
TRADE = {"symbol": "EUR/USD", "id": "7341", "price": "1.08502", "quantity": "150000", "side": "BUY",
         "time": "2025-01-15T10:30:00.120Z"}  # fmt: skip
MESSAGE = '{"event":"pusher:subscribe","data":{"channel":"quote.acme.EURUSD","auth":"app-key:0123456789abcdef"}}'


@frozen
class Pair:
    """One piece of work in two ways."""

    what: str
    instead_of: str
    quick: Callable[[], object]
    plain: Callable[[], object]
    unit: int = 1
    """The pieces that one call does."""


def plain_class(cls: type[Event]) -> type:
    """Return a class of the same declaration, with the constructor that attrs writes."""
    fields = {
        field.name: attrs.field(default=field.default, converter=field.converter, kw_only=True)
        for field in attrs.fields(cls)
    }
    return attrs.make_class(f"Plain{cls.__name__}", fields, frozen=True, slots=True)


def generic_encode(event: Event) -> bytes:
    """Return the canonical JSON of an event whose members are all in the body or required beside it, field by field."""
    body: dict[str, Any] = {}
    beside: dict[str, Any] = {}
    for field in attrs.fields(type(event)):
        value = getattr(event, field.name)
        if value is not None or field.default is NOTHING:
            outside = event.body is None or (field.name in event.outside and field.name not in event.renamed)
            (beside if outside else body)[event.renamed.get(field.name, field.name)] = value
    wire = {"type": event.kind, str(event.body): body, **beside, "provider": STAMP.provider, "id": "5f3a-1"}
    return msgspec.json.encode({**wire, "received_at": STAMP.received_at})


def read_by_h11() -> None:
    """Read the request as the HTTP server reads all others."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(UPGRADE)
    connection.next_event()


def looked_up() -> None:
    """Check the price and the time of an event that have been seen."""
    text.known_decimal("1.08501")
    text.known_time("2025-01-15T10:30:00.120Z")


def checked() -> None:
    """Check them again."""
    text.decimal_text("1.08501")
    text._utc("2025-01-15T10:30:00.120Z")


def masked(message: str) -> bytes:
    """Return a client's frame."""
    client = wsproto.connection.Connection(wsproto.ConnectionType.CLIENT)
    return client.send(wsproto.events.TextMessage(message))


def framing() -> Iterator[Pair]:
    """Yield the pairs of reading and writing frames, on connections that are open already."""
    frame, parser = masked(MESSAGE), FrameParser()
    server = wsproto.connection.Connection(wsproto.ConnectionType.SERVER)

    def by_wsproto() -> None:
        server.receive_data(frame)
        for _ in server.events():
            pass

    data = MESSAGE.encode()
    yield Pair("read a message of 101 bytes", "wsproto", lambda: parser.feed(frame), by_wsproto)
    yield Pair(
        "frame a message, for 100 subscribers",
        "wsproto, for each",
        lambda: encode_text(data),
        lambda: [server.send(wsproto.events.TextMessage(MESSAGE)) for _ in range(100)],
        100,
    )


def of_events(cls: type[Event], members: dict[str, Any]) -> Iterator[Pair]:
    """Yield the pairs of making and of writing an event."""
    usual, event = plain_class(cls), cls(**members)
    yield Pair(f"construct a {cls.kind}", "attrs", lambda: cls(**members), lambda: usual(**members))
    yield Pair(
        f"write a {cls.kind} as JSON",
        "a loop over its fields",
        lambda: serialize.encode(event, STAMP, "5f3a-1"),
        lambda: generic_encode(event),
    )


def pairs() -> Iterator[Pair]:
    """Yield the pairs that need no sockets."""
    yield Pair("read an upgrade request", "h11", lambda: read_upgrade(UPGRADE, 16_384), read_by_h11)
    yield from framing()
    yield from of_events(Quote, QUOTE)
    yield from of_events(PublicTrade, TRADE)
    yield Pair("check a price and a time", "no memory of them", looked_up, checked)


@contextmanager
def sockets(count: int) -> Iterator[tuple[list[socket.socket], list[socket.socket]]]:
    """Return connected sockets that do not block: ours, and the peers'."""
    with ExitStack() as stack, socket.create_server(("127.0.0.1", 0), backlog=count) as listening:
        theirs = [stack.enter_context(socket.create_connection(listening.getsockname())) for _ in range(count)]
        ours = [stack.enter_context(listening.accept()[0]) for _ in range(count)]
        for each in (*ours, *theirs):
            each.setblocking(False)
        yield ours, theirs


def writing(count: int, rounds: int) -> dict[str, Any] | None:
    """Return the row of writing one frame to many sockets; None where the kernel has no io_uring."""
    ring = open_ring()
    if ring is None:
        return None
    frame = b"\x81\x7e\x00\xc4" + b"x" * 196
    with sockets(count) as (ours, theirs):
        slots = [ring.allocate(each.fileno()) for each in ours]

        def drain() -> None:
            for each in theirs:
                each.recv(65_536)

        def each_alone() -> None:
            for each in ours:
                each.send(frame)

        pair = Pair(
            f"write 200 bytes to {count} sockets", "send() for each", lambda: ring.send(slots, frame), each_alone, count
        )
        row = compared(pair, rounds, calls=1, after=drain)
        ring.close()
    return row


class Reading:
    """A socket in a poller, which reads what arrives."""

    heard = 0

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def ready(self) -> None:
        """Read."""
        self.sock.recv(64)
        Reading.heard += 1


async def polling(count: int, rounds: int) -> list[dict[str, Any]]:
    """Return the rows of watching many idle sockets: by one epoll set, or by a task for each."""
    costs: dict[bool, list[float]] = {True: [], False: []}
    memory: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(rounds):
        for epoll in (True, False):
            with sockets(count) as (ours, theirs):
                poller, watched = Poller(epoll=epoll), [Reading(each) for each in ours]
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(poller.run)
                    tracemalloc.start()
                    for each in watched:
                        poller.watch(each.sock.fileno(), each)
                    for _ in range(20):
                        await trio.lowlevel.checkpoint()
                    memory[epoll].append(tracemalloc.get_traced_memory()[0] / count)
                    tracemalloc.stop()
                    Reading.heard, began = 0, time.process_time()
                    for number, each in enumerate(theirs):
                        each.send(b"x")
                        while Reading.heard <= number:
                            await trio.lowlevel.checkpoint()
                    costs[epoll].append((time.process_time() - began) / count * 1e6)
                    nursery.cancel_scope.cancel()
    return [
        row_of("hear from an idle socket", "a task for each", costs[True], costs[False]),
        row_of("watch an idle socket", "a task for each", memory[True], memory[False], "bytes"),
    ]


def compared(pair: Pair, rounds: int, calls: int = 0, after: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """Return the row of a pair: both ways in turns, each `calls` times; 0: as often as takes a millisecond."""
    calls = calls or max(1, int(0.001 / max(timed(pair.plain, 20), 1e-8)))
    quick, plain = [], []
    for _ in range(rounds):
        quick.append(timed(pair.quick, calls) / pair.unit * 1e6)
        after()
        plain.append(timed(pair.plain, calls) / pair.unit * 1e6)
        after()
    return row_of(pair.what, pair.instead_of, quick, plain)


def timed(work: Callable[[], object], calls: int) -> float:
    """Return the CPU seconds of one call."""
    began = time.process_time()
    for _ in range(calls):
        work()
    return (time.process_time() - began) / calls


def row_of(what: str, instead_of: str, quick: list[float], plain: list[float], of: str = "us") -> dict[str, Any]:
    """Return a row."""
    return {
        "what": what,
        "instead of": instead_of,
        "unit": of,
        "with": median(quick),
        "without": median(plain),
        "gain": median([slow / fast for fast, slow in zip(quick, plain, strict=True) if fast]),
    }


def main() -> None:
    """Run the bench."""
    options = arguments(__doc__, rounds=201, sockets=500)
    rows = [compared(pair, options.rounds) for pair in pairs()]
    written = writing(options.sockets, options.rounds)
    rows += [] if written is None else [written]
    rows += trio.run(polling, options.sockets, max(1, options.rounds // 20))
    notes = ["no io_uring here"] if written is None else []
    report(options, "shortcuts: the fast path with and without", rows, notes)


if __name__ == "__main__":
    main()
