"""Replay: run a provider's session from a recording instead of a connection. Nothing is sent.

``[providers.NAME.replay]`` configures it. Session and adapter are the real ones; only the connection and the HTTP client are
replaced. So a replay cannot reach a live account. Its adapter has no commands, and the configuration refuses URLs and
credentials for it.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import trio

from relay.adapter import Adapter, Answer, Fetch
from relay.errors import OperatorError
from relay.model.commands import Command
from relay.provider.session_events import Closed, Dial, DialFailed, DialRefused, as_text
from relay.settings import ReplayTable
from relay.testing.player import ACK_WITHIN
from relay.testing.recording import Record, RecordingError, RequestKey, read_recording
from relay.testing.trial import recorded_answer

#: Seconds without a frame of the session's that end its subscribing.
QUIET = 0.5
#: Seconds between two signs of life of a replay that is over, or that waits for a subscription.
_ALIVE = 5.0


def replayed(adapter: type[Adapter]) -> type[Adapter]:
    """Return the adapter as one that takes no commands, and writes none."""

    def encode(self: Adapter, outgoing: Any) -> Iterable[Any]:
        if isinstance(outgoing, Command):
            raise ValueError("a replay does not accept commands")
        return adapter.encode(self, outgoing)

    return type(adapter.__name__, (adapter,), {"commands": (), "encode": encode})


class Replay:
    """One recording, as a connection of a session (`dial`) and as its HTTP client (`fetch`).

    Raises:
        OperatorError: the file cannot be read, or is not a recording.
    """

    def __init__(self, settings: ReplayTable) -> None:
        try:
            recording = read_recording(str(settings.file))
        except OSError as error:
            raise OperatorError(f"cannot read {settings.file}: {error.strerror or error}") from error
        except RecordingError as error:
            raise OperatorError(str(error)) from error
        self.settings = settings
        self._answers = recording.answers()
        self._asked: Counter[RequestKey] = Counter()
        kinds = ("in", "out", "close") if settings.acks else ("in", "close")
        self._records = [each for each in recording.records if each.dir in kinds and not each.own]
        first = next((each for each in recording.records if each.dir == "out"), None)
        #: Number of frames before the client's first one, which the adapter may need before it sends anything.
        self._greeting = 0 if first is None else sum(each.t < first.t for each in self._records if each.dir == "in")
        self._waits = first is not None
        self._position = 0

    async def fetch(self, fetch: Fetch, url: str) -> Answer:
        """Return the recorded answer."""
        await trio.lowlevel.checkpoint()
        found = recorded_answer(self._answers, self._asked, fetch.method, url)
        return Answer(status=0, text="the recording has no answer to this request") if found is None else found

    def dial(self, deadlines: Any, ssl_context: Any, **callbacks: Any) -> "ReplayedConnection":
        """Return a connection, with the arguments of `relay.provider.connection.Line`."""
        return ReplayedConnection(self, **callbacks)

    def take_connection(self) -> tuple[Sequence[Record], int]:
        """Return the records of the next connection, its end included, and how many of them are its greeting."""
        begin = self._position
        if begin >= len(self._records) and self.settings.loop:
            begin = 0
        end = next(
            (n for n, each in enumerate(self._records[begin:], begin) if each.dir == "close"), len(self._records) - 1
        )
        self._position = end + 1
        return self._records[begin : end + 1], self._greeting if begin == 0 else 0

    @property
    def waits(self) -> bool:
        """True if the recorded client sent something before it received all: the replay waits for that."""
        return self._waits


class ReplayedConnection:
    """A connection whose frames come from a recording; sent frames are only counted."""

    def __init__(
        self,
        replay: Replay,
        *,
        on_open: Callable[[], None],
        on_text: Callable[[str, int], None],
        on_bytes: Callable[[], None],
        on_written: Callable[[], object] = lambda: None,
    ) -> None:
        self._replay = replay
        self._on_open = on_open
        self._on_text = on_text
        self._on_bytes = on_bytes
        self._on_written = on_written
        self._scope = trio.CancelScope()
        self._sent = trio.Event()
        self._unanswered = 0
        self._binary = False
        self.live = True

    def send(self, text: str) -> bool:
        """Count a frame; it is not sent."""
        self._unanswered += 1
        self._sent.set()
        self._on_written()
        return True

    def ping(self) -> bool:
        """Answer a ping at once."""
        self._on_bytes()
        return True

    def close(self, code: int, reason: str) -> None:
        """End the connection."""
        self.live = False
        self._scope.cancel()

    async def run(self, dial: Dial) -> Closed | DialRefused | DialFailed:
        """Play the records of one connection, then stay open in silence, or end as the recorded one ended."""
        self._binary = dial.binary
        with self._scope:
            await trio.lowlevel.checkpoint()
            self._on_open()
            while True:
                records, greeting = self._replay.take_connection()
                ending = await self._play(records[:greeting]) or await self._play_rest(records[greeting:])
                if ending is not None:
                    return ending
                if not (self._replay.settings.loop and records):
                    await self._stay()
        return Closed(1006, "the replay was stopped")

    async def _play_rest(self, records: Sequence[Record]) -> Closed | None:
        if records and self._replay.waits and not self._replay.settings.acks:
            while not await self._take_sent(_ALIVE):
                self._on_bytes()
            while await self._take_sent(QUIET):
                pass
        return await self._play(records)

    async def _play(self, records: Sequence[Record]) -> Closed | None:
        settings, began = self._replay.settings, trio.current_time()
        for record in records:
            if record.dir == "out":
                await self._take_sent(ACK_WITHIN)
                continue
            if settings.speed and not settings.acks:
                await self._sleep_until(began + (record.t - records[0].t) / settings.speed)
            else:
                await trio.lowlevel.checkpoint()
            if record.dir == "close":
                return Closed(record.code or 1006, str(record.data))
            self._on_bytes()
            self._on_text(as_text(record.data, binary=self._binary), time.time_ns())
        return None

    async def _sleep_until(self, at: float) -> None:
        """Wait, alive: a recording has no ping frames."""
        while at - trio.current_time() > _ALIVE:
            await trio.sleep(_ALIVE)
            self._on_bytes()
        await trio.sleep_until(at)

    async def _take_sent(self, within: float) -> bool:
        """Take one frame of the session's, waiting for it; return False if none was sent in time."""
        if not self._unanswered:
            self._sent = trio.Event()
            with trio.move_on_after(within):
                await self._sent.wait()
        if self._unanswered:
            self._unanswered -= 1
            return True
        return False

    async def _stay(self) -> None:
        while True:
            await trio.sleep(_ALIVE)
            self._on_bytes()
