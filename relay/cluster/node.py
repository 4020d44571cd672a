"""A node of the cluster: the IO around `Lease` and `Replica`, with one `RedisCluster` for all providers.

A node has these tasks. One reads, with a single blocking read, the logs that it does not write and the messages of the other
nodes. One announces the node every second and looks for the others. For each provider, one keeps the lease and one writes
the logs while the lease is held. Nodes have no other channel between them. A reader that is slow or was disconnected
continues from its position, and a dead connection is noticed because the blocking read has a deadline.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
import trio
from attrs import define, field, frozen

from relay.cluster.lease import AGAIN, Lease, Request
from relay.cluster.log import EndOfLog, LogPosition, decode
from relay.cluster.redis import CONTROL, Fenced, NotGranted, RedisCluster, log_key
from relay.cluster.replica import LOGS, LogName, Replica, ReplicatedTopics
from relay.model.channels import Asker
from relay.store.interface import Done, Row, Rows, StoreError

#: Seconds between two announcements of this node, each with a look at the others, and between two checkpoints of topics.
LOOK = 1.0
#: Seconds, in addition to the time of a lease, without an answer from Redis or without an owner, after which a provider's
#: data are marked stale.
SUSPECT = 1.0
#: Most changes of one provider that may wait for an acknowledgement.
MOST_WAITING = 10_000
#: Most rows written with one batch. Needed because a new owner may write all rows again.
MOST_ROWS = 2_000

NOT_OWNER = "another node owns the provider now"
GIVEN_UP = "the node that the command came from has given it up"

_encode = msgspec.msgpack.Encoder().encode


class _Message(msgspec.Struct, frozen=True, array_like=True):
    """A message between nodes. An empty ``to`` addresses all nodes."""

    sender: str
    to: str
    kind: str
    body: bytes


_message = msgspec.msgpack.Decoder(_Message).decode
#: The streams that a node wants, each with the subscribers that requested it there: app, connection and network.
_wanted = msgspec.msgpack.Decoder(dict[str, list[tuple[str, str, str | None]]]).decode
_status = msgspec.json.Decoder(dict[str, Any]).decode

#: Most subscribers of a stream that a node announces to the owner.
MOST_ASKERS = 4
Wanted = Mapping[str, Sequence[Asker]]
"""The subscribers that requested each stream, by the name of its channel."""


def _by_stream(announced: bytes) -> Wanted:
    told = _wanted(announced) if announced else {}
    return {stream: [Asker(*each) for each in askers] for stream, askers in told.items()}


class ProviderPart(ReplicatedTopics, Protocol):
    """A provider in this process, as far as the node needs it."""

    def checkpoint(self) -> Mapping[str, bytes]:
        """Return the states of the topics that have changed since the last call."""

    epoch: str
    """The epoch of topics that have had no event yet."""

    def adopt(self, epoch: str, states: Mapping[str, bytes], rows: Rows) -> None:
        """Restore missed state: the states of topics, as returned by `checkpoint`, and of accounts."""

    def lead(self, rows: Rows) -> None:
        """Become the owner. ``rows``: the provider's rows in the store."""

    async def run_sessions(self, hand_over: trio.Event) -> None:
        """Run the provider's sessions until cancelled. Close them cleanly when ``hand_over`` is set."""

    def resign(self, unwritten: Sequence[Row]) -> None:
        """Stop being the owner. From now on nothing may be published as the owner.

        ``unwritten``: rows that are not known to be in the store. The events that belong to them were not published.
        """

    def suspect(self, reason: str) -> None:
        """Notify subscribers that the data are stale for ``reason``; if it is empty, that they no longer are."""

    def want(self, streams: Wanted, new: Collection[str]) -> None:
        """Subscribe to exactly these streams of the provider. ``new``: those that a node has added since the last call."""


@frozen
class _Change:
    """A row to write to Redis."""

    row: Row
    new: bool = False
    done: Done | None = None


@define(eq=False)
class ProviderNode:
    """This node's part in one provider."""

    name: str
    redis: RedisCluster
    part: ProviderPart
    log: Callable[..., None]
    lease: Lease = field(init=False)
    replica: Replica = field(init=False)
    loaded: bool = False
    owner: str = ""
    """The node that owns the provider; empty if none is known."""
    suspected: str = ""
    loads: int = 0
    """Number of times that the current state was loaded: at the start, and whenever this node had missed batches."""
    ends: EndOfLog[Mapping[LogName, LogPosition]] = field(init=False)
    _loading: bool = field(default=False, init=False)
    _rows: list[_Change] = field(factory=list, init=False)
    _sending: list[_Change] = field(factory=list, init=False)
    _news: trio.Event = field(factory=trio.Event, init=False)
    _writes: trio.Event = field(factory=trio.Event, init=False)
    _leads: trio.Event = field(factory=trio.Event, init=False)
    _hurried: trio.Event = field(factory=trio.Event, init=False)
    _handing_over: trio.Event = field(factory=trio.Event, init=False)
    _ended: trio.Event = field(factory=trio.Event, init=False)
    _left: trio.Event = field(factory=trio.Event, init=False)
    _scope: trio.CancelScope | None = field(default=None, init=False)
    _begun: bool = field(default=False, init=False)
    seen_at: float = field(default=0.0, init=False)

    def __attrs_post_init__(self) -> None:
        self.lease = Lease(self.redis.ttl)
        self.replica = Replica(self.part)
        self.ends = EndOfLog(self._has_read)

    @property
    def owns(self) -> bool:
        """True while this node may publish the provider's events and use its sessions.

        It is False until the rows of the last owner are loaded. Before that, a repeated command would seem to be new.
        """
        return self._begun and self.lease.held(trio.current_time())

    # --- what the owner writes ---------------------------------------------------------------------------------------

    def append(self, name: LogName, entry: Any) -> None:
        """Append an event to a log."""
        self.replica.append(name, entry)
        if self.replica.overrun:
            self.stop("the log is too far behind")
        self._wake()

    def write(self, row: Row) -> None:
        """Write a row with the next batch."""
        if self.replica.leading:
            self._rows.append(_Change(row))
            self._wake()

    def commit(self, row: Row, done: Done) -> None:
        """Write a new row and call ``done`` when it is in Redis, or with the reason why it is not."""
        if not self.owns:
            done(NOT_OWNER)
        elif self.redis.failure:
            done(self.redis.failure)
        elif len(self._rows) >= MOST_WAITING:
            done(f"{MOST_WAITING} rows wait for Redis")
        else:
            self._rows.append(_Change(row, new=True, done=done))
            self._wake()

    @property
    def busy(self) -> int:
        """Number of rows and acknowledgements that wait for Redis."""
        return len(self._rows) + len(self._sending)

    def sync(self, done: Done) -> None:
        """Call ``done`` when all rows written so far are in Redis."""
        self._rows.append(_Change(Row("", "", None), done=done))
        self._wake()

    def _wake(self) -> None:
        self._news.set()

    # --- the lease ---------------------------------------------------------------------------------------------------

    async def keep_lease(self) -> None:
        """Acquire the lease and renew it, until cancelled."""
        while True:
            now = trio.current_time()
            if self.lease.lapsed(now):
                self.stop("its lease has run out")
            request = self.lease.request(now) if self.loaded else None
            if request is not None:
                await self._ask(request)
                continue
            self._hurried = trio.Event()
            with trio.move_on_at(max(self.lease.deadline(), now + 0.01) if self.loaded else now + AGAIN):
                await self._hurried.wait()

    async def _ask(self, request: Request) -> None:
        try:
            if request.token:
                found = await self.redis.renew(self.name, request.token, self.replica.leading_in)
                if self.lease.lapsed(trio.current_time()):
                    self.stop("its lease has run out")  # while the request was in flight: the answer is too late
                elif found is None:
                    self.lease.refused(request, trio.current_time())
                    self.stop("another node has the lease")
                elif self.lease.granted(request, request.token, self.lease.fence):
                    if not self.replica.renewed(*found):
                        self.lease.lost(trio.current_time())
                        self.stop("Redis has lost what was written")
                    elif self._scope is not None:
                        self._scope.deadline = self.lease.until
                return
            answer = await self.redis.acquire(self.name)
        except StoreError:
            self.lease.failed(request, trio.current_time())
            return
        if isinstance(answer, NotGranted):
            self.lease.refused(request, trio.current_time(), answer.free_in)
        elif self.lease.granted(request, answer.token, answer.fence):
            self.log("lease granted", provider=self.name, fence=answer.fence)
            self.replica.granted(answer)
            self.try_to_write()

    def hurry(self) -> None:
        """Try to acquire the lease at once, because its holder is leaving or has left."""
        self.lease.hurry(trio.current_time())
        self._hurried.set()

    def try_to_write(self) -> None:
        """Begin to write if the lease is held and both logs have been read to their ends."""
        if self.lease.held(trio.current_time()) and self.replica.try_to_write():
            self._writes.set()

    def stop(self, reason: str) -> None:
        """Stop being the owner at once, for the logged ``reason``."""
        if self.lease.token:
            self.lease.lost(trio.current_time())
        if self._scope is not None:
            self.log("not the owner any more", provider=self.name, reason=reason)
            self._scope.cancel()
        else:
            self.replica.resign()

    # --- leading -----------------------------------------------------------------------------------------------------

    async def lead(self) -> None:
        """Write whenever this node is the owner, until cancelled."""
        while True:
            await self._writes.wait()
            self._writes, self._leads, self._ended = trio.Event(), trio.Event(), trio.Event()
            try:
                with trio.CancelScope(deadline=self.lease.until) as self._scope:
                    await self._write()
            finally:
                self._scope, self._begun = None, False
                if self.lease.lapsed(trio.current_time()):
                    self.log("not the owner any more", provider=self.name, reason="its lease has run out")
                if self.lease.token:  # renewing an unused lease would keep other nodes from leading
                    self.lease.lost(trio.current_time())
                self.replica.resign()
                rows, self._rows, self._sending = [*self._sending, *self._rows], [], []
                for change in rows:
                    if change.done is not None:
                        change.done(NOT_OWNER)
                self.part.resign([change.row for change in rows if change.row.table])
                self._left.set()

    async def _write(self) -> None:
        async with trio.open_nursery() as nursery:
            for name in LOGS:
                nursery.start_soon(self._append, name)
            await self._leads.wait()
            rows = await self._begin()
            self.owner = self.redis.node
            self._begun = True
            self.part.lead(rows)
            self._set_suspected("")
            self.log("owner", provider=self.name, fence=self.lease.fence)
            self._hurried.set()
            await self.part.run_sessions(self._handing_over)
            await self._hand_over(nursery)

    async def _begin(self) -> Rows:
        while True:
            try:
                await self.redis.begin_epoch(self.name, self.part.epoch)
                await self.redis.renew(self.name, self.lease.token, self.replica.leading_in)
                return await self.redis.rows(self.name)
            except StoreError:
                await trio.sleep(AGAIN)

    async def _append(self, name: LogName) -> None:
        """Append batches, one after another, each with the rows and states to write in the same script."""
        writer = self.replica.writers[name]
        checkpoint_at = 0.0
        states: Mapping[str, bytes] = {}
        is_durable = name == "durable"
        appended_at = trio.current_time()
        while not writer.ended:
            batch = writer.batch()
            if is_durable and not self._sending and not writer.waiting:
                self._sending, self._rows = self._rows[:MOST_ROWS], self._rows[MOST_ROWS:]
            rows = self._sending if is_durable else []
            now = trio.current_time()
            if name == "market" and not states and now >= checkpoint_at:
                states, checkpoint_at = self.part.checkpoint(), now + LOOK
            if batch is None and not rows and not states:
                await self._until_news()
                appended_at = trio.current_time()
                continue
            changes = [(change.row, change.new) for change in rows if change.row.table]
            try:
                found = await self.redis.append(self.name, self.lease.token, name, batch, states, changes)
            except StoreError as error:
                # A Redis that is full still renews leases, but refuses every other write.
                if trio.current_time() - appended_at > self.redis.ttl:
                    self.stop(str(error))
                await trio.sleep(AGAIN)
                continue
            appended_at = trio.current_time()
            if isinstance(found, Fenced):
                self.lease.lost(trio.current_time())
                self.stop("another node has the lease")
                await trio.sleep_forever()
            states = {}
            if is_durable:
                self._sending = []
            if batch is not None and self.replica.appended(name):
                self._leads.set()
            if all(each.ended for each in self.replica.writers.values()):
                self._ended.set()
            for change in rows:
                if change.done is not None:
                    change.done(GIVEN_UP if change.row.key in found else "" if self.owns else NOT_OWNER)

    async def _until_news(self) -> None:
        """Wait until there is something to append to either log."""
        with trio.move_on_after(LOOK):
            await self._news.wait()
        if self._news.is_set():
            self._news = trio.Event()

    async def hand_over(self) -> None:
        """Release the provider to another node, after its sessions have closed and everything is written."""
        self.lease.wanted = False
        self._handing_over.set()
        with trio.move_on_after(LOOK):
            if self._scope is not None:
                await self._left.wait()

    async def _hand_over(self, nursery: trio.Nursery) -> None:
        for writer in self.replica.writers.values():
            writer.end()
        self._wake()
        await self._ended.wait()
        token = self.lease.token
        self.lease.lost(trio.current_time())
        await self.redis.release(self.name, token)
        nursery.cancel_scope.cancel()

    # --- reading -----------------------------------------------------------------------------------------------------

    def following(self) -> dict[str, LogPosition]:
        """Return the positions after which this node reads, by the key of the log."""
        if not self.loaded or self.replica.writers:
            return {}
        return {log_key(self.name, name): self.replica.readers[name].position for name in LOGS}

    def feed(self, name: LogName, raw: bytes) -> None:
        """Publish the events of a batch that was read."""
        batch = decode(raw)
        self.replica.feed(name, batch)
        if batch.entries and self.suspected:
            self.see(self.owner or "unknown", trio.current_time())
        self.try_to_write()
        if batch.ends:
            self.hurry()

    def _has_read(self, ends: Mapping[LogName, LogPosition]) -> bool:
        if not self.loaded or self._loading or self.replica.missed:
            return False
        return all(self.replica.readers[name].position >= ends[name] for name in LOGS)

    async def load(self) -> None:
        """Load the current state: at the start, and when this node has missed batches."""
        self._loading = True
        try:
            await self._load()
        finally:
            self._loading = False

    async def _load(self) -> None:
        found = await self.redis.load(self.name)
        rows = await self.redis.rows(self.name)
        if self.replica.writers:
            return
        self.replica.start_at(found.begins)
        positions = dict(found.begins)
        while any(positions[name] < found.ends[name] for name in LOGS):
            read = await self.redis.read({log_key(self.name, name): positions[name] for name in LOGS})
            for name in LOGS:
                for position, raw in read.get(log_key(self.name, name), ()):
                    positions[name] = position
                    if not self.replica.writers:
                        self.replica.feed(name, decode(raw))
        self.part.adopt(found.epoch, found.topics, rows)
        self.loaded = True
        self.loads += 1
        self.try_to_write()

    def see(self, owner: str, now: float) -> None:
        """Note which node owns the provider. Mark the data stale if it has had no owner for long."""
        self.owner = owner
        if owner:
            self.seen_at = now
        late = now - self.seen_at > self.redis.ttl + SUSPECT
        reason = (self.redis.failure or "no node has the provider's lease") if late else ""
        if not self.owns:
            self._set_suspected(reason)

    def _set_suspected(self, reason: str) -> None:
        if reason != self.suspected:
            self.suspected = reason
            self.part.suspect(reason)

    def status(self) -> dict[str, Any]:
        """Return its section of the status page."""
        waiting = {f"{name}_waiting": len(writer) for name, writer in self.replica.writers.items()}
        positions = {name: list(reader.position) for name, reader in self.replica.readers.items()}
        left = max(0.0, self.lease.until - trio.current_time())
        return {"provider": self.name, "owner": self.owner, "owns": self.owns, "fence": self.lease.fence,
                "lease_left": round(left, 3), "loads": self.loads, **waiting,
                "positions": positions, "suspected": self.suspected}  # fmt: skip


class ClusterNode:
    """One node with all its providers.

    Args:
        name: the node's name in the configuration.
        parts: its providers.
        may_own: whether it acquires leases.
        on_message: called with sender, kind and body of messages to this node.
        status: returns the status of this node that is shown to the others.
        log: called with an event name and fields.
    """

    def __init__(
        self,
        redis: RedisCluster,
        parts: Mapping[str, ProviderPart],
        *,
        may_own: bool,
        on_message: Callable[[str, str, bytes], object] = lambda sender, kind, body: None,
        status: Callable[[], Mapping[str, Any]] = dict,
        log: Callable[..., None] = lambda event, **fields: None,
    ) -> None:
        self.redis = redis
        self.providers = {name: ProviderNode(name, redis, part, log) for name, part in parts.items()}
        self.nodes: dict[str, Mapping[str, Any]] = {}
        """The statuses of the living nodes, by name."""
        self._heard_at: dict[str, float] = {}
        self._on_message = on_message
        self._status = status
        self._log = log
        self._wants: dict[str, dict[Asker, None]] = {}
        self._changed = True
        self._look_now = trio.Event()
        self._messages: list[bytes] = []
        self._outgoing = trio.Event()
        self._position = LogPosition(0, 0)
        self._loaded = trio.Event()
        self._ends_asked = trio.Event()
        self._interest: dict[str, Wanted] = {}
        for each in self.providers.values():
            each.lease.wanted = may_own

    # --- from the relay; synchronous ---------------------------------------------------------------------------------

    def want(self, stream: str, by: Asker) -> None:
        """Announce that this node has a subscriber of a stream. ``stream``: name of its channel."""
        self._wants[stream] = {by: None}
        self._changed = True
        self._look_now.set()

    def want_too(self, stream: str, by: Asker) -> None:
        """Announce another subscriber of the stream. The owner requests it at the first turn of any of its subscribers."""
        askers = self._wants.get(stream)
        if askers is not None and len(askers) < MOST_ASKERS and by not in askers:
            askers[by] = None
            self._changed = True

    def unwant(self, stream: str) -> None:
        """Announce that this node no longer has a subscriber of the stream."""
        self._wants.pop(stream, None)
        self._changed = True

    def read_on(self, provider: str) -> Callable[[], bool]:
        """Start to read to the current end of a provider's logs. Return a function that returns True once that is done."""
        is_read = self.providers[provider].ends.read_on()
        self._ends_asked.set()
        return is_read

    def tell(self, to: str, kind: str, body: bytes) -> None:
        """Send a message to a node, or to all if ``to`` is empty."""
        self._messages.append(_encode(_Message(self.redis.node, to, kind, body)))
        self._outgoing.set()

    # --- running -----------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the node until cancelled."""
        async with self.redis.connected(), trio.open_nursery() as nursery:
            now = trio.current_time()
            for each in self.providers.values():
                each.seen_at = now
                nursery.start_soon(each.keep_lease)
                nursery.start_soon(each.lead)
            nursery.start_soon(self._read)
            nursery.start_soon(self._look)
            nursery.start_soon(self._send)
            nursery.start_soon(self._find_ends)
            while not self._loaded.is_set():
                with trio.move_on_after(self.redis.ttl + SUSPECT):
                    await self._loaded.wait()
                if self.redis.failure:
                    break
            task_status.started()

    async def hand_over(self) -> None:
        """Release all providers to other nodes, and continue as a node that only reads."""
        async with trio.open_nursery() as nursery:
            for each in self.providers.values():
                nursery.start_soon(each.hand_over)

    async def leave(self) -> None:
        """Announce that this node ends."""
        try:
            await self.redis.leave()
        except StoreError as error:
            self._log("store failed", reason=str(error))

    async def _read(self) -> None:
        keys = {log_key(each.name, name): (each, name) for each in self.providers.values() for name in LOGS}
        failed = False
        while True:
            try:
                if not self._position.fence:
                    self._position = max(await self.redis.newest(), LogPosition(1, 0))
                for each in self.providers.values():
                    if not each.loaded or each.replica.missed:
                        await each.load()
                if not self._loaded.is_set():
                    self._loaded.set()
                    for setting, needed, why in await self.redis.unsafe_settings():
                        self._log("Redis is not configured for this", setting=setting, needed=needed, reason=why)
                after = {CONTROL: self._position}
                for each in self.providers.values():
                    after.update(each.following())
                found = await self.redis.read(after)
            except StoreError as error:
                if not failed:
                    self._log("store failed", reason=str(error))
                failed = True
                await trio.sleep(AGAIN)
                continue
            if failed:
                self._log("store available")
                failed = False
            for key, batches in found.items():
                if key == CONTROL:
                    self._hear(batches)
                    continue
                each, name = keys[key]
                for _, raw in batches:
                    each.feed(name, raw)

    def _hear(self, messages: Iterable[tuple[LogPosition, bytes]]) -> None:
        for position, raw in messages:
            self._position = position
            message = _message(raw)
            if message.kind == "want":
                self._look_now.set()
            elif message.to in ("", self.redis.node):
                self._on_message(message.sender, message.kind, message.body)

    async def _send(self) -> None:
        while True:
            await self._outgoing.wait()
            self._outgoing = trio.Event()
            messages, self._messages = self._messages, []
            for message in messages:
                try:
                    await self.redis.tell(message)
                except StoreError:
                    continue  # the requester has a deadline

    async def _find_ends(self) -> None:
        """Ask Redis for the ends of logs, for subscribers that may have seen later events on another node."""
        while True:
            await self._ends_asked.wait()
            self._ends_asked = trio.Event()
            for each in self.providers.values():
                if each.ends.wanted:
                    asked = each.ends.asked
                    try:
                        each.ends.answer(asked, await self.redis.ends(each.name))
                    except StoreError:
                        self._ends_asked.set()
                        await trio.sleep(AGAIN)

    async def _look(self) -> None:
        """Announce this node's status and wanted streams every second, and read those of the others."""
        while True:
            self._look_now = trio.Event()
            now = trio.current_time()
            try:
                wanted = _encode(self._announced()) if self._changed else None
                self._changed = False
                await self.redis.announce(msgspec.json.encode(self._status()), wanted)
                nodes = await self.redis.nodes()
                owners = await self.redis.owners(self.providers)
                self._see(nodes, owners, now)
            except StoreError:
                self._changed = True
                for each in self.providers.values():
                    each.see("", now)
            await trio.sleep(LOOK / 50)
            with trio.move_on_after(LOOK):
                await self._look_now.wait()

    def _announced(self) -> Mapping[str, list[tuple[str, str, str | None]]]:
        return {
            stream: [(by.app, by.connection, by.network) for by in self._wants[stream]]
            for stream in sorted(self._wants)
        }

    def _see(self, nodes: Mapping[str, tuple[bytes, bytes]], owners: Mapping[str, str], now: float) -> None:
        told: dict[str, Mapping[str, Any]] = {name: _status(status) for name, (status, _) in nodes.items()}
        for name, status in told.items():
            if status.get("seen_at") is None or status["seen_at"] != self.nodes.get(name, {}).get("seen_at"):
                self._heard_at[name] = now
        self._heard_at = {name: at for name, at in self._heard_at.items() if name in told}
        self.nodes = told
        interest = {name: _by_stream(wanted) for name, (_, wanted) in nodes.items()}
        new: set[str] = set()
        wanted: dict[str, list[Asker]] = {}
        for name, streams in interest.items():
            new |= streams.keys() - self._interest.get(name, {}).keys()
            for stream, askers in streams.items():
                wanted.setdefault(stream, []).extend(askers)
        self._interest = interest
        for name, each in self.providers.items():
            each.see(owners.get(name, ""), now)
            mine = {stream: askers for stream, askers in wanted.items() if stream.split(".", 2)[1] == name}
            each.part.want(mine, new & mine.keys())

    def _state(self, name: str) -> str:
        """Return UP if the node was seen within a lease's time and a second, otherwise SILENT; UNKNOWN if Redis fails."""
        if name == self.redis.node:
            return "UP"
        if self.redis.failure:
            return "UNKNOWN"
        late = trio.current_time() - self._heard_at[name] > self.redis.ttl + SUSPECT
        return "SILENT" if late else "UP"

    def status(self) -> dict[str, Any]:
        """Return its section of the status page."""
        return {
            "node": self.redis.node,
            "available": not self.redis.failure,
            "reason": self.redis.failure,
            "nodes": {name: {**status, "state": self._state(name)} for name, status in self.nodes.items()},
            "providers": [each.status() for each in self.providers.values()],
        }
