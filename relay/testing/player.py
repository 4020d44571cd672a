"""The session player: a recording served as the provider it came from.

One loopback port answers WebSocket connections on any path and the recorded HTTP requests. Every connection is played the
whole recording from its first frame; what was received on several recorded connections is merged in time order on it.
HTTP answers come by method, path and query, in recorded order for each, the last one over and over; anything else is a
404 that lists what there is. What the client sends is read and remembered, and answered only if the recording has the
answer (it comes in its recorded place) or a ``reply`` function writes one.

Frames come at the recorded pace or faster, or paced by what the client sends (``acks``): a recorded frame of the client's is
waited for before anything that was received behind it, so that a client which acknowledges each event sets the pace.

    async with play("kraken.jsonl", start="subscribe") as player:
        ...  # dial player.ws_url, fetch from player.http_url
        await player.finished.wait()
"""

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Literal

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from relay.testing.port import HttpRequest, HttpResponse, Wire, serve_port
from relay.testing.recording import Record, Recording, RequestKey, Source, read_recording, request_key

#: Beginning of the frames that came after the client's first one: at once, after the client subscribed (its first frame and
#: then ``quiet`` seconds without another), or when `Player.release` is called. A greeting before it is written at once.
Start = Literal["connect", "subscribe", "release"]
#: Writes the frames that answer a client's frame at once (an acknowledgement the recording lacks).
Reply = Callable[[str], Iterable[str]]

_WRITE_WITHIN = 30.0
#: Seconds that a frame of the client's is waited for where it sets the pace; a client that never sends it gets the rest.
ACK_WITHIN = 10.0
_REMEMBERED = 10_000


class Player:
    """A playing recording. Made by `play`.

    Attributes:
        ws_url, http_url: where to dial and fetch; paths are appended.
        received: what clients sent, newest last, at most 10,000 frames.
        requests: the HTTP requests that came, as ``GET /path?query``, likewise.
        connections: how many WebSocket connections were accepted.
        played: how many frames were written, on all connections.
        finished: set when the last frame was written on some connection.
    """

    def __init__(
        self,
        recording: Recording,
        *,
        speed: float,
        start: Start,
        quiet: float,
        close: bool,
        reply: Reply | None,
        acks: bool = False,
        loop: bool = False,
    ):
        if speed < 0:
            raise ValueError(f"speed: expected 0 (as fast as possible) or a factor, got {speed}")
        self.recording = recording
        self.ws_url = ""
        self.http_url = ""
        self.received: deque[str | bytes] = deque(maxlen=_REMEMBERED)
        self.requests: deque[str] = deque(maxlen=_REMEMBERED)
        self.connections = 0
        self.played = 0
        self.finished = trio.Event()
        self._frames = tuple(each for each in recording.records if each.dir == "in" or (acks and each.dir == "out"))
        self._acks = acks
        self._loop = loop
        self._greeting = _greeting(recording)
        self._answers = recording.answers()
        self._answered: dict[RequestKey, int] = {}
        self._speed = speed
        self._start = start
        self._quiet = quiet
        self._close = close
        self._reply = reply
        self._released = trio.Event()

    def release(self) -> None:
        """Begin the frames on every connection that waits with ``start="release"``, and on those to come."""
        self._released.set()

    async def serve(
        self, *, host: str = "127.0.0.1", port: int = 0, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until cancelled; started once ``ws_url`` and ``http_url`` are known."""
        async with trio.open_nursery() as nursery:
            bound = await nursery.start(partial(serve_port, self._answer, self._talk, host=host, port=port))
            self.ws_url, self.http_url = f"ws://{host}:{bound}", f"http://{host}:{bound}"
            task_status.started()

    async def _answer(self, request: HttpRequest) -> HttpResponse:
        self.requests.append(f"{request.method} {request.target}")
        key = request_key(request.method, request.target)
        recorded = self._answers.get(key)
        if recorded is None:
            known = "".join(f"{record[0].method} {record[0].url}\n" for record in self._answers.values())
            text = f"not recorded: {request.method} {request.target}\nrecorded are:\n{known or 'none'}"
            return HttpResponse(status=404, body=text, content_type="text/plain; charset=utf-8")
        turn = self._answered.get(key, 0)
        self._answered[key] = turn + 1
        record = recorded[min(turn, len(recorded) - 1)]
        return HttpResponse(status=record.status or 504, body=record.data)

    async def _talk(self, connection: WebSocketConnection, request: HttpRequest, wire: Wire) -> None:
        self.connections += 1
        # One notice that the client spoke is as good as many, but where each sets the pace.
        spoken, heard = trio.open_memory_channel[None](_REMEMBERED if self._acks else 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, connection, spoken, nursery.cancel_scope)
            try:
                await self._play(connection, self._frames[: self._greeting], heard)
                if not self._acks:
                    await self._wait_to_start(heard)
                await self._play(connection, self._frames[self._greeting :], heard)
                self.finished.set()
                while self._loop:
                    await self._play(connection, self._frames[self._greeting :], heard)
                ended = self._close
            except ConnectionClosed:
                ended = True
            if ended:
                nursery.cancel_scope.cancel()

    async def _listen(
        self, connection: WebSocketConnection, spoken: trio.MemorySendChannel[None], scope: trio.CancelScope
    ) -> None:
        """Read whatever the client sends, so that its writes, pings and its close are seen; its leaving ends the talk."""
        try:
            while True:
                message = await connection.get_message()
                self.received.append(message)
                with suppress(trio.WouldBlock):  # one unread notice is enough to say that the client spoke
                    spoken.send_nowait(None)
                if self._reply is not None and isinstance(message, str):
                    for text in self._reply(message):
                        await _send(connection, text)
        except ConnectionClosed:
            scope.cancel()

    async def _wait_to_start(self, heard: trio.MemoryReceiveChannel[None]) -> None:
        if self._start == "release":
            await self._released.wait()
        elif self._start == "subscribe":
            await heard.receive()
            while True:
                with trio.move_on_after(self._quiet) as silence:
                    await heard.receive()
                if silence.cancelled_caught:
                    return

    async def _play(
        self, connection: WebSocketConnection, frames: Sequence[Record], heard: trio.MemoryReceiveChannel[None]
    ) -> None:
        began = trio.current_time()
        for record in frames:
            if record.dir == "out":
                with trio.move_on_after(ACK_WITHIN):
                    await heard.receive()
                continue
            if self._speed and not self._acks:
                await trio.sleep_until(began + (record.t - frames[0].t) / self._speed)
            await _send(connection, record.data)
            self.played += 1


def _greeting(recording: Recording) -> int:
    """Return how many frames came before the client's first one: it may wait for them before it says anything."""
    came = 0
    for record in recording.records:
        if record.dir == "out":
            return came
        came += record.dir == "in"
    return 0


async def _send(connection: WebSocketConnection, frame: str | bytes) -> None:
    """Send one frame. Raises ConnectionClosed also when the client does not read for `_WRITE_WITHIN` seconds."""
    with trio.move_on_after(_WRITE_WITHIN) as writing:
        await connection.send_message(frame)
    if writing.cancelled_caught:
        raise ConnectionClosed(None)


@asynccontextmanager
async def play(
    source: Source | Recording,
    *,
    speed: float = 0.0,
    start: Start = "connect",
    quiet: float = 0.5,
    close: bool = False,
    reply: Reply | None = None,
    acks: bool = False,
    loop: bool = False,
) -> AsyncIterator[Player]:
    """Play a recording, or the file of one, on a port the kernel chooses, for as long as the block lasts.

    Args:
        speed: 0 as fast as the client reads, 1 at the recorded pace, 10 ten times as fast.
        start: when the frames begin on a connection; see `Start`.
        quiet: for ``start="subscribe"``, seconds without a frame of the client's that end its subscribing.
        close: close the connection (1000) after the last frame instead of leaving it open.
        reply: answers to what the client sends, for a recording that has none.
        acks: the client sets the pace, as the module's text says; ``speed`` and ``start`` are not used then.
        loop: begin again after the last frame, on the same connection.

    Raises:
        RecordingError: the file is no recording.
        OSError: the file cannot be read, or no port can be had.
    """
    recording = source if isinstance(source, Recording) else read_recording(source)
    player = Player(recording, speed=speed, start=start, quiet=quiet, close=close, reply=reply, acks=acks, loop=loop)
    async with trio.open_nursery() as nursery:
        await nursery.start(player.serve)
        yield player
        nursery.cancel_scope.cancel()
