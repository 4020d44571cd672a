"""The recorder: taps that only append to a bounded queue, and a thread that masks, compresses and writes.

Nothing here waits on the relay's side: a tap adds one item to a deque. The thread takes what is there a few times a second,
so that a message costs no switch of threads. What does not fit into the queue, or cannot be written (a full disk), is
counted, and a ``lost`` record in the file says how much is missing and why.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import trio

from relay.model.events import Event, Stamp
from relay.plugins import FrameTap, RelayApi, TappedSession, Traffic
from relay_recorder.files import EventFile, Folder, FrameFile, OutputFile
from relay_recorder.table import RecorderTable

#: Seconds between two looks at the queue, and from one flush to the next: what a crash of the machine may cost.
LOOK, FLUSH = 0.2, 2.0
#: Seconds after a failed write until the next one.
PAUSE = 5.0
#: Items that are masked and written together.
BATCH = 500
#: Bytes of an item of the queue besides its text; an event is counted as this many, too.
ITEM, EVENT = 200, 600
#: Seconds for the queue to be written at the end.
DRAIN = 10.0


class Recorded:
    """The record of one session, or of all events: its file, and how much of it was lost.

    Attributes:
        lost: items that found no room; only the relay's thread counts here.
        told: of these, how many a record tells of.
    """

    def __init__(self, target: OutputFile) -> None:
        self.target = target
        self.lost = self.told = 0
        #: Items that could not be written, and why; when to try again.
        self.unwritten, self.reason, self.again_at = 0, "", 0.0
        #: All items that could not be written; only the thread counts here.
        self.failed = 0


class Recorder:
    """Records one relay, or one session of it.

    Args:
        table: the operator's choices.
        clock: monotonic seconds.
        frames, events: the one file of each, instead of rotated ones in the directory. Further connections have files beside
            that of the first, whose names begin with their numbers.
    """

    def __init__(
        self,
        table: RecorderTable,
        *,
        clock: Callable[[], float] = time.monotonic,
        frames: Path | None = None,
        events: Path | None = None,
    ) -> None:
        self._table = table
        self._clock = clock
        self._folder = Folder(table)
        self._queue: deque[tuple[Recorded, Any, int]] = deque()
        self._frames = frames
        self._events = Recorded(EventFile(self._folder, events))
        self._targets = [self._events]
        #: Bytes that were put into the queue, and that were taken from it; each is counted by one thread.
        self._put = self._taken = 0
        self._most = table.queue_bytes
        self._stop = threading.Event()
        self._log = structlog.get_logger()
        self._flushed_at = clock()

    # --- the relay's side --------------------------------------------------------------------------------------------

    def tap(self, session: TappedSession) -> FrameTap | None:
        """Return the tap of a session; None where its provider is not recorded."""
        if not self._table.records(session.provider):
            return None
        path = self._frames
        if path is not None and session.connection > 1:
            path = path.with_name(f"{session.connection}-{path.name}")
        recorded = Recorded(FrameFile(self._folder, session, path))
        self._targets.append(recorded)
        return partial(self._take, recorded)

    def _take(self, recorded: Recorded, traffic: Traffic) -> None:
        size = len(traffic.data) + ITEM
        if self._put - self._taken + size > self._most:
            recorded.lost += 1
            return
        self._put += size
        self._queue.append((recorded, traffic, size))

    def take_event(self, event: Event, stamp: Stamp, id: str) -> None:
        """Take a published event."""
        if self._put - self._taken + EVENT > self._most:
            self._events.lost += 1
            return
        self._put += EVENT
        self._queue.append((self._events, (event, stamp, id), EVENT))

    def counts(self) -> Mapping[tuple[str, str], float]:
        """Return how many items were lost: for want of room in the queue, and of the disk."""
        found: dict[tuple[str, str], float] = {}
        for kind, targets in (("events", self._targets[:1]), ("frames", self._targets[1:])):
            found[kind, "lost_queue_full"] = sum(each.lost for each in targets)
            found[kind, "lost_not_written"] = sum(each.failed for each in targets)
        return found

    def levels(self) -> Mapping[tuple[str, str], float]:
        """Return the bytes that wait to be written, and how many files cannot be written now."""
        now = self._clock()
        return {
            ("queue", "bytes"): self._put - self._taken,
            ("files", "failing"): sum(now < each.again_at for each in self._targets),
        }

    async def run(self, relay: RelayApi | None = None) -> None:
        """Write until cancelled, then what waits."""
        self._stop.clear()
        thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        thread.start()
        try:
            await trio.sleep_forever()
        finally:
            self._stop.set()
            with trio.CancelScope(shield=True), trio.move_on_after(DRAIN):
                await trio.to_thread.run_sync(thread.join, DRAIN, abandon_on_cancel=True)

    # --- the thread's side -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stop.wait(LOOK):
                self.write()
        finally:
            self.write()
            self.close()

    def write(self) -> None:
        """Write what waits, rotate and flush what is due. Never raises for what the disk does."""
        while self._queue:
            batches: dict[Recorded, list[Any]] = {}
            size = 0
            for _ in range(min(BATCH, len(self._queue))):
                recorded, item, bytes_ = self._queue.popleft()
                batches.setdefault(recorded, []).append(item)
                size += bytes_
            for recorded, items in batches.items():
                self._write(recorded, items)
            self._taken += size
        for recorded in self._targets:
            self._tell_lost(recorded)
        now = self._clock()
        if now - self._flushed_at >= FLUSH:
            self._flushed_at = now
            for recorded in self._targets:
                self._attempt(recorded, recorded.target.flush, 0)
            self._delete_old()

    def _write(self, recorded: Recorded, items: list[Any]) -> None:
        if self._clock() < recorded.again_at:
            recorded.unwritten += len(items)
            recorded.failed += len(items)
            return
        self._attempt(recorded, partial(recorded.target.write, items, self._clock()), len(items))

    def _attempt(self, recorded: Recorded, action: Callable[[], None], items: int) -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001 - whatever a disk or a database does, the relay goes on
            if not recorded.unwritten:
                self._log.error("recorder cannot write", file=str(recorded.target.name), cause=str(error))
            recorded.unwritten += items
            recorded.failed += items
            recorded.reason = f"{type(error).__name__}: {error}"
            recorded.again_at = self._clock() + PAUSE
            recorded.target.abandon()

    def _tell_lost(self, recorded: Recorded) -> None:
        """Write how many items are missing, behind those that were written before."""
        lost = recorded.lost
        full, unwritten = lost - recorded.told, recorded.unwritten
        if not (full or unwritten) or self._clock() < recorded.again_at:
            return
        reasons = ["the queue was full"] * bool(full) + [recorded.reason] * bool(unwritten)
        try:
            recorded.target.lost(full + unwritten, "; ".join(reasons), self._clock())
        except Exception:  # noqa: BLE001 - as above
            recorded.again_at = self._clock() + PAUSE
            recorded.target.abandon()
            return
        recorded.told, recorded.unwritten = lost, 0
        self._log.warning("not recorded", file=str(recorded.target.name), count=full + unwritten, cause=reasons)

    def _delete_old(self) -> None:
        writing = {recorded.target.name for recorded in self._targets}
        try:
            deleted = self._folder.delete_old(writing)
        except OSError as error:
            self._log.warning("old recordings cannot be deleted", cause=str(error))
            return
        if deleted:
            self._log.info("old recordings deleted", count=len(deleted), keep_bytes=self._table.keep_bytes)

    def close(self) -> None:
        """Finish all files."""
        for recorded in self._targets:
            self._attempt(recorded, recorded.target.close, 0)
