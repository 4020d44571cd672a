"""A cluster without IO: nodes of `relay.cluster`, a model of the store, and a world of faults, driven by one seed.

The world keeps what was really shown to whom, and checks after every step:

(a) two nodes never use the provider's sessions at once;
(b) a number of an epoch of a topic has one content, on every node and in the log;
(c) what a node publishes of a topic is what the log has, in order, with a gap told for all that is left out;
(d) a fill and a reply are published exactly once;
(e) the frame of a command is sent at most once;
(f) a node that is asked to go on behind an event of the account, which another node has shown, has it once it has read what
    was in the log when it was asked.

A store that comes back without the last second of its writes (an append-only file that is written each second) keeps (a), (b)
and (c); (d), (e) and (f) are promised by a store that loses nothing.
"""

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from itertools import takewhile
from typing import Any

from relay.cluster.lease import TTL, Lease, Request
from relay.cluster.log import START, LogBatch, LogEntry, LogPosition, decode, encode
from relay.cluster.replica import LOGS, WINDOW, LeaseGrant, LogName, Placing, Replica, place

MARKET = tuple(f"quote.x.{name}" for name in "abc")
DURABLE = "account.x.main"
#: Batches that the store keeps of a log: fewer than a node may be away for.
KEPT: Mapping[LogName, int] = {"market": 40, "durable": 6}
#: Seconds after which a request without an answer is made again.
PATIENCE = 0.6
#: Seconds after the last fault within which a node leads and the others follow: a lease, the time in which a store that was
#: started anew grants none, and the latest of the late requests.
SETTLED = 10.0
#: Batches that are read at once.
AT_ONCE = 20


class Violated(AssertionError):
    """A promise was broken; the text has the history of the run."""


class Store:
    """Do what Redis does in one step each, by its own clock. ``run`` names one life of the server."""

    def __init__(self) -> None:
        self.run = 0
        self.lease: tuple[str, str, float] = ("", "", 0.0)  # token, node, end
        self.fence = 0
        self.token, self.led_in = "", ""
        self.life: tuple[int, float] = (-1, 0.0)  # a life that was noticed, and when
        self.logs: dict[LogName, deque[LogBatch]] = {name: deque(maxlen=KEPT[name]) for name in LOGS}
        self.ends: dict[LogName, LogPosition] = dict.fromkeys(LOGS, START)
        self.topics: dict[str, tuple[str, int]] = {}
        self.told: set[str] = set()
        self.rows: set[str] = set()
        self.epochs: list[str] = []

    def acquire(self, node: str, now: float) -> LeaseGrant | float:
        token, holder, end = self.lease
        if self.life[0] != self.run:
            self.life = (self.run, now)
        if now < self.life[1] + TTL:  # a lease that the store has lost may still be held
            return self.life[1] + TTL - now
        if token and end > now and holder != node:
            return end - now
        self.fence = max(self.fence + 1, int(now * 1000))
        self.token = f"{self.fence}:{node}"
        self.lease = (self.token, node, now + TTL)
        run = str(self.run)
        return LeaseGrant(
            token=self.token, fence=self.fence, ends=dict(self.ends), run=run, continuous=self.led_in == run
        )

    def renew(self, token: str, leading_in: str, now: float) -> tuple[str, dict[LogName, LogPosition]] | None:
        if self.lease[0] != token or self.lease[2] <= now:
            return None
        self.led_in = leading_in or self.led_in
        self.lease = (token, self.lease[1], now + TTL)
        return str(self.run), dict(self.ends)

    def release(self, token: str) -> None:
        if self.lease[0] == token:
            self.lease = ("", "", 0.0)

    def append(self, token: str, name: LogName, raw: bytes) -> bool:
        """Append a batch, once; False where the token is not the last one granted."""
        if token != self.token:
            return False
        batch = decode(raw)
        if batch.position <= self.ends[name]:
            return True
        self.ends[name] = batch.position
        self.logs[name].append(batch)
        for entry in batch.entries:
            self.topics[entry.topic] = (entry.epoch, entry.seq)
            if name == "durable":
                self.told.add(entry.tail.decode())
                if entry.epoch not in self.epochs:
                    self.epochs.append(entry.epoch)
        return True

    def age(self, position: tuple[str, int]) -> tuple[int, int]:
        """Return which epoch of the account's this is, and the number in it."""
        epoch, seq = position
        return self.epochs.index(epoch) if epoch in self.epochs else -1, seq

    def insert(self, token: str, key: str) -> bool | None:
        """Keep the names of a command; None where the token is not the last one, False where they are known."""
        if token != self.token:
            return None
        new = key not in self.rows
        self.rows.add(key)
        return new

    def read(self, after: Mapping[LogName, LogPosition]) -> list[tuple[LogName, list[LogBatch]]]:
        found: list[tuple[LogName, list[LogBatch]]] = []
        for name, position in after.items():
            if self.ends[name] > position:
                newer = list(
                    takewhile(lambda batch, position=position: batch.position > position, reversed(self.logs[name]))
                )
                found.append((name, newer[: -AT_ONCE - 1 : -1]))
        return found

    def load(self) -> tuple[Any, ...]:
        return dict(self.topics), dict(self.ends), set(self.told), set(self.rows)

    def saved(self) -> tuple[Any, ...]:
        logs = {name: list(log) for name, log in self.logs.items()}
        return self.lease, self.fence, self.token, self.led_in, self.life, logs, *self.load()

    def restart(self, saved: tuple[Any, ...] | None) -> None:
        """Begin a new life with what an earlier moment had; None: with nothing."""
        run = self.run + 1
        self.__init__()  # type: ignore[misc]
        self.run = run
        if saved is not None:
            self.lease, self.fence, self.token, self.led_in, self.life, logs, topics, ends, told, rows = saved
            self.logs = {name: deque(log, maxlen=KEPT[name]) for name, log in logs.items()}
            self.topics, self.ends, self.told, self.rows = dict(topics), dict(ends), set(told), set(rows)


class Node:
    """One node: a lease, a replica, its topics, and a session with the broker while it leads."""

    def __init__(self, world: "World", name: str) -> None:
        self.world, self.name = world, name
        self.lease = Lease()
        self.replica = Replica(self)
        self.known: dict[str, tuple[str, int]] = {}
        self.told: set[str] = set()
        self.queued: set[str] = set()
        self.numbered: dict[str, tuple[str, int]] = {}
        self.epochs = 0
        self.loaded = False
        self.asked_at: dict[object, float] = {}
        #: The batch of each log that is on its way, and since when.
        self.batches: dict[LogName, LogPosition] = {}
        self.began_at: dict[LogName, float] = {}
        self.paused_until = 0.0
        self.sent: list[str] = []

    # ReplicatedTopics ----------------------------------------------------------------------------------------------------------

    def publish(self, entry: LogEntry) -> None:
        data, known = entry.tail.decode(), self.known.get(entry.topic)
        placing = place(known, entry)
        if placing is not Placing.REPEATED:
            self.known[entry.topic] = (entry.epoch, entry.seq)
            self.world.shown(self, entry, placing, known, data)
        if entry.topic == DURABLE:
            if data in self.told and not data.startswith("gap"):
                self.world.fail(f"{self.name} published {data} twice", lossless=True)
            self.told.add(data)

    def take_over(self, *, new_epochs: bool) -> Iterable[tuple[LogName, LogEntry]]:
        self.numbered = {topic: known for topic, known in self.known.items() if topic == DURABLE}
        for topic, (epoch, seq) in list(self.known.items()):
            name: LogName = "durable" if topic == DURABLE else "market"
            if new_epochs:
                number = self.entry(topic, self.new_epoch(), 1, f"gap {self.lease.fence}")
            elif name == "market":
                number = LogEntry(topic, epoch, seq + 1, seq + WINDOW, tail=f"gap {self.lease.fence}".encode())
            else:
                continue
            if name == "durable":
                self.numbered[topic] = (number.epoch, number.seq)
            yield name, number

    @staticmethod
    def entry(topic: str, epoch: str, seq: int, data: str) -> LogEntry:
        return LogEntry(topic, epoch, seq, seq, tail=data.encode())

    def new_epoch(self) -> str:
        self.epochs += 1
        return f"{self.name}.{self.epochs}"

    # Life ------------------------------------------------------------------------------------------------------------

    def step(self, now: float) -> None:
        if now < self.paused_until:
            return
        if self.lease.lapsed(now):
            self.stop()
        request = self.lease.request(now) if self.loaded else None
        if request is not None:
            self.ask(request)
        if not self.loaded or self.replica.missed:
            self.call("load", self.world.store.load, self.take_load)
        elif self.replica.writers:
            for name in LOGS:
                self.push(name)
            if self.replica.leading and self.lease.held(now):
                self.use_session(now)
        else:
            after = {name: self.replica.readers[name].position for name in LOGS}
            self.call("read", lambda: self.world.store.read(after), self.take)

    def stop(self) -> None:
        self.replica.resign()
        self.queued.clear()
        self.asked_at.clear()
        self.batches.clear()
        self.sent.clear()

    def ask(self, request: Request) -> None:
        store, world = self.world.store, self.world

        def acquired(answer: Any) -> None:
            if isinstance(answer, float):
                self.lease.refused(request, world.now, answer)
            elif self.lease.granted(request, answer.token, answer.fence) and self.lease.held(world.now):
                self.replica.granted(answer)
                self.begin()

        def renewed(answer: Any) -> None:
            if answer is not None:
                if self.lease.granted(request, request.token, self.lease.fence) and not self.replica.renewed(*answer):
                    self.lease.lost(world.now)
                    self.stop()
            elif self.lease.refused(request, world.now):
                self.stop()

        if request.token:
            leading_in = self.replica.leading_in
            world.request(self, lambda: store.renew(request.token, leading_in, world.now), renewed)
        else:
            world.request(self, lambda: store.acquire(self.name, world.now), acquired, writes=True)

    def call(self, what: object, ask: Callable[[], Any], take: Callable[[Any], None], *, writes: bool = False) -> None:
        """Make a request unless the same one is on its way; its answer is of no use once another was made."""
        if self.asked_at.get(what, -PATIENCE) + PATIENCE > self.world.now:
            return
        self.asked_at[what] = at = self.world.now

        def answered(answer: Any) -> None:
            if self.asked_at.get(what) == at:
                del self.asked_at[what]
                take(answer)

        self.world.request(self, ask, answered, writes=writes)

    def take_load(self, answer: Any) -> None:
        topics, ends, told, _ = answer
        if self.replica.writers:
            return
        for topic, (epoch, seq) in topics.items():
            number = self.entry(topic, epoch, seq, "")
            known = self.known.get(topic)
            if place(known, number) is not Placing.REPEATED:
                self.known[topic] = (epoch, seq)
                self.world.shown(self, number, Placing.HOLE, known, None)
        self.told |= told
        self.loaded = True
        self.replica.start_at(ends)
        self.begin()

    def take(self, found: list[tuple[LogName, list[LogBatch]]]) -> None:
        for name, batches in found:
            for batch in batches:
                self.replica.feed(name, batch)
                if batch.ends:
                    self.lease.hurry(self.world.now)
        self.begin()

    def has_read(self, ends: Mapping[LogName, LogPosition]) -> bool:
        """Return True where the logs are read to these ends: who resumes is answered then, see `relay.cluster.log.EndOfLog`."""
        if not self.loaded or self.replica.missed:
            return False
        return all(self.replica.readers[name].position >= ends[name] for name in LOGS)

    # Leading ---------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        if self.lease.held(self.world.now) and self.replica.try_to_write():
            self.asked_at.clear()

    def lead(self) -> None:
        self.world.note(f"{self.name} leads with fence {self.lease.fence}")
        for key in sorted(self.world.store_rows_seen(self)):
            if f"reply {key}" not in self.told:
                self.durable(f"reply {key}")

    def push(self, name: LogName) -> None:
        writer = self.replica.writers.get(name)
        if writer is None or (batch := writer.batch()) is None:
            return
        if self.batches.get(name) != batch.position:
            self.batches[name], self.began_at[name] = batch.position, self.world.now
        elif self.world.now - self.began_at[name] > TTL:
            self.world.note(f"{self.name} gives up: the store renews its lease, and takes nothing else")
            self.lease.lost(self.world.now)
            self.stop()
            return
        token, raw = self.lease.token, encode(batch)

        def appended(done: bool) -> None:
            if self.replica.writers.get(name) is not writer:
                return
            if not done:
                self.lease.lost(self.world.now)
                self.stop()
                return
            self.world.logged(batch)
            if self.replica.appended(name):
                self.lead()

        self.call(("append", name), lambda: self.world.store.append(token, name, raw), appended, writes=True)

    def durable(self, data: str) -> None:
        if data in self.told or data in self.queued:
            return
        self.queued.add(data)
        epoch, seq = self.numbered.get(DURABLE) or (self.new_epoch(), 0)
        self.numbered[DURABLE] = (epoch, seq + 1)
        self.replica.append("durable", self.entry(DURABLE, epoch, seq + 1, data))

    def use_session(self, now: float) -> None:
        """Do what the session does in a step: tell news of the market and of the account, send a command."""
        world = self.world
        world.used(self)
        for _ in range(world.random.randrange(4)):
            topic = world.random.choice(MARKET)
            epoch, seq = self.known.get(topic) or (self.new_epoch(), 0)
            world.events += 1
            entry = self.entry(topic, epoch, seq + 1, f"quote {world.events}")
            self.publish(entry)
            self.replica.append("market", entry)
        for fill in world.fills:
            self.durable(fill)
        while self.sent:
            self.durable(f"reply {self.sent.pop()}")

    def command(self, key: str) -> None:
        """Carry out a command: its names go into the store, then its frame to the broker, if this node still may."""
        token = self.lease.token
        store, world = self.world.store, self.world
        ended: list[bool] = []

        def is_owner() -> bool:
            return self.lease.held(world.now) and self.lease.token == token and self.replica.leading

        def kept(new: bool | None) -> None:
            if new and not ended and is_owner():
                world.frames[key] += 1
                if world.frames[key] > 1:
                    world.fail(f"the frame of {key} was sent twice", lossless=True)
                self.sent.append(key)
            ended.append(True)

        def late() -> None:
            """Reject it: the store has not answered, so it was not sent and will not be."""
            if not ended and is_owner():
                ended.append(True)
                self.durable(f"reply {key}")

        world.request(self, lambda: store.insert(token, key), kept, writes=True)
        world.at(5.0, late)


class World:
    """Time, faults and the judge."""

    def __init__(self, seed: int, *, lossy: bool = False) -> None:
        self.random = random.Random(seed)
        self.seed, self.lossy = seed, lossy
        self.now = 10.0
        self.store = Store()
        self.saves: deque[tuple[float, tuple[Any, ...]]] = deque(maxlen=4)
        self.queue: list[tuple[float, int, Callable[[], None]]] = []
        self.order = 0
        self.history: list[str] = []
        self.events = 0
        self.leads = 0
        self.resumed = 0
        self.fills: list[str] = []
        self.frames: Counter[str] = Counter()
        self.content: dict[tuple[str, str, int], str] = {}
        self.cut: set[str] = set()
        self.slow = self.full = self.healed = False
        self.lives = 0
        self.nodes = [self.new_node() for _ in range(3)]

    def new_node(self) -> Node:
        self.lives += 1
        return Node(self, f"n{self.lives}")

    # The network -----------------------------------------------------------------------------------------------------

    def at(self, delay: float, call: Callable[[], None]) -> None:
        self.order += 1
        heapq.heappush(self.queue, (self.now + delay, self.order, call))

    def request(self, node: Node, ask: Callable[[], Any], take: Callable[[Any], None], *, writes: bool = False) -> None:
        """Carry a request to the store and its answer back; either may be late or lost. A full store takes no writes."""

        def arrive() -> None:
            if node.name in self.cut or (writes and self.full):
                return
            answer = ask()
            if self.random.random() < self.loss:
                return
            self.at(self.delay(), lambda: self.answer(node, take, answer))

        if self.random.random() > self.loss / 2:
            self.at(self.delay(), arrive)

    def answer(self, node: Node, take: Callable[[Any], None], answer: Any) -> None:
        if node.name in self.cut or node not in self.nodes:
            return
        if self.now < node.paused_until:
            self.at(node.paused_until - self.now, lambda: self.answer(node, take, answer))
        else:
            if node.lease.lapsed(self.now):  # as a process does that was stopped for a while
                node.stop()
            take(answer)

    @property
    def loss(self) -> float:
        """The share of requests or answers that get lost."""
        return 0.0 if self.healed else 0.3 if self.slow else 0.02

    def delay(self) -> float:
        if self.random.random() < self.loss / 10:
            return self.random.uniform(0, 8)  # beyond a lease: it arrives in the time of another owner
        return self.random.random() * (1.5 if self.slow else 0.02)

    # The judge -------------------------------------------------------------------------------------------------------

    def note(self, what: str) -> None:
        self.leads += " leads " in what
        self.history.append(f"{self.now:7.2f} {what}")

    def fail(self, what: str, *, lossless: bool = False) -> None:
        if not (lossless and self.lossy):
            raise Violated(f"seed {self.seed}, lossy={self.lossy}: {what}\n" + "\n".join(self.history[-80:]))

    def used(self, node: Node) -> None:
        others = [each.name for each in self.nodes if each is not node and each.lease.held(self.now)]
        if others:
            self.fail(f"{node.name} uses the session that {others} may use")

    def shown(
        self, node: Node, number: LogEntry, placing: Placing, known: tuple[str, int] | None, data: str | None
    ) -> None:
        """Check what a node shows its subscribers; a HOLE is shown as a gap before it."""
        if known is not None and known[0] == number.epoch:
            if number.seq <= known[1]:
                self.fail(f"{node.name} went back from {known} to {number}")
            if number.first > known[1] + 1 and placing is not Placing.HOLE:
                self.fail(f"{node.name} left out what is between {known} and {number}, and told no gap")
        if data is not None:
            self.same(number, data)

    def same(self, number: LogEntry, data: str) -> None:
        at = (number.topic, number.epoch, number.seq)
        if self.content.setdefault(at, data) != data:
            self.fail(f"{at} is {self.content[at]} and {data}")

    def logged(self, batch: LogBatch) -> None:
        for entry in batch.entries:
            self.same(entry, entry.tail.decode())

    def store_rows_seen(self, node: Node) -> set[str]:
        """The commands that a new owner finds: it reads them from the store before it begins."""
        return set(self.store.rows)

    # A run -----------------------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Let time pass, with faults; then heal everything, and check that the cluster is one again."""
        self.pass_time(seconds, faults=True)
        self.heal()
        self.pass_time(SETTLED, faults=False)
        self.judge_the_end()

    def pass_time(self, seconds: float, *, faults: bool) -> None:
        end = self.now + seconds
        while self.now < end:
            tick = self.now + 0.1
            while self.queue and self.queue[0][0] <= tick:
                self.now, _, call = heapq.heappop(self.queue)
                call()
            self.now = tick
            if faults:
                self.fault()
                self.news()
                self.wander()
            if self.lossy and (not self.saves or self.now > self.saves[-1][0] + 0.4):
                self.saves.append((self.now, self.store.saved()))
            for node in self.nodes:
                node.step(self.now)

    def news(self) -> None:
        if self.random.random() < 0.1:
            self.fills.append(f"fill {len(self.fills)}")
        if self.random.random() < 0.1:
            key = f"c{self.random.randrange(10)}" if self.random.random() < 0.2 else f"c{len(self.frames) + 10}"
            for node in self.nodes:
                if node.replica.leading and self.now >= node.paused_until:
                    node.command(key)

    def wander(self) -> None:
        """Have a subscriber of the account go from one node to another."""
        here, there = self.random.sample(self.nodes, 2)
        position, until = here.known.get(DURABLE), self.now + 5.0
        if position is None or self.random.random() > 0.2:
            return

        def look(ends: Mapping[LogName, LogPosition]) -> None:
            if there not in self.nodes or self.now > until:
                return  # the subscriber is sent away, and tries another one
            if self.now < there.paused_until or not there.has_read(ends):
                self.at(0.05, lambda: look(ends))
                return
            self.resumed += 1
            known = there.known.get(DURABLE)
            if known is None or self.store.age(known) < self.store.age(position):
                self.fail(f"{there.name} has {known}, and {here.name} had shown {position}", lossless=True)

        self.request(there, lambda: dict(self.store.ends), look)

    def fault(self) -> None:
        if self.random.random() > 0.04:
            return
        node = self.random.choice(self.nodes)
        match self.random.randrange(7 if self.lossy else 6):
            case 0:
                self.note(f"{node.name} is killed")
                self.nodes[self.nodes.index(node)] = self.new_node()
            case 1:
                node.paused_until = self.now + self.random.uniform(0.5, 8)
                self.note(f"{node.name} is stopped until {node.paused_until:.2f}")
            case 2:
                self.note(f"{node.name} is cut off")
                self.cut.add(node.name)
                self.at(self.random.uniform(0.5, 8), lambda: self.cut.discard(node.name))
            case 3:
                self.note("the store is slow")
                self.slow = True
                self.at(self.random.uniform(1, 6), self.speed_up)
            case 4:
                if node.replica.leading:
                    self.note(f"{node.name} hands over")
                    for writer in node.replica.writers.values():
                        writer.end()
                    token = node.lease.token
                    node.lease.wanted = False
                    self.at(0.3, lambda: self.leave(node, token))
            case 5:
                self.note("the store is full")
                self.full = True
                self.at(self.random.uniform(1, 6), self.make_room)
            case 6:
                lost = [saved for at, saved in self.saves if at >= self.now - 1.2]
                self.note(f"the store restarts, {'empty' if self.random.random() < 0.3 else 'without its last writes'}")
                empty = self.history[-1].endswith("empty")
                self.store.restart(None if empty or not lost else lost[0])

    def leave(self, node: Node, token: str) -> None:
        if node in self.nodes and node.lease.token == token:
            node.stop()
            node.lease.lost(self.now)
            self.request(node, lambda: self.store.release(token), lambda _: None)
        self.at(3.0, lambda: setattr(node.lease, "wanted", True))

    def speed_up(self) -> None:
        self.slow = False

    def make_room(self) -> None:
        self.full = False

    def heal(self) -> None:
        self.note("all is healed")
        self.cut.clear()
        self.slow, self.full, self.healed = False, False, True
        for node in self.nodes:
            node.paused_until = 0.0

    def judge_the_end(self) -> None:
        leaders = [node for node in self.nodes if node.replica.leading and node.lease.held(self.now)]
        if len(leaders) != 1:
            self.fail(f"{len(leaders)} nodes lead in the end")
        # News of the last moment may be on their way: stop them, and wait.
        self.fills, rest = [], self.fills
        for node in self.nodes:
            node.use_session = lambda now: None  # type: ignore[method-assign]
        self.pass_time(2.0, faults=False)
        for node in self.nodes:
            if node.known != leaders[0].known:
                self.fail(f"{node.name} has {node.known}, the owner {leaders[0].known}")
            if lost := [fill for fill in rest if fill not in node.told]:
                self.fail(f"{node.name} never heard of {lost}", lossless=True)
            if lost := [key for key in self.store.rows if f"reply {key}" not in node.told]:
                self.fail(f"{node.name} never heard the reply to {lost}", lossless=True)
