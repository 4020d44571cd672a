"""A cluster of real processes on a real Redis, a cable from each to it, a broker, somebody who trades, and the judge of it all.

Each relay is a process of its own; its subscribers, the broker, the cables and the judge are in the test's. What must hold in
the end, whatever happened in between (`Judge`):

- every subscriber got each topic's events as they are in the log, in order, each once, and was told of all that it did not get:
  by a gap, or by a resume that fails since the history no longer goes back that far, with the present state behind it;
- a fill at the broker was told once to every subscriber, and so was the reply to each command, which is the same for all;
- the broker got the order of a command at most once;
- the last state of each order is the one that the broker has.
"""

import json
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import coredis
import httpx
import trio
from attrs import define, field

from relay.cluster.log import LogEntry, LogPosition, decode
from relay.cluster.redis import log_key
from relay.cluster.replica import LOGS
from relay.hub.encoding import decode_data
from relay.hub.log import stream_key
from relay.hub.outbox import Policy
from relay.model.channels import parse_channel
from relay.pusher.apps import App
from relay.pusher.client import PositionReached, ResumeFailed
from relay.testing.account import Change, Filled
from relay.testing.simulator import HttpRequest, HttpResponse
from relay.testing.subscriber import Subscriber
from relay_tektii.simulator import KEY, Subscription, TektiiSimulator
from support.cable import Cable, cable
from support.deadlines import WITHIN
from support.forked import Forked, ForkServer
from support.redis_server import RedisServer, redis_server
from support.running import API_KEY, APP, UNTRUSTING

QUOTES, ACCOUNT = "quote.broker.AAPL", "private-account.broker.paper"
#: Seconds in which the cluster must have done what a test waits for, on the most loaded machine.
CONFIGURATION = f"""
allow_inline_secrets = true
[server]
listen = "127.0.0.1:0"
[apps.main]
id = "{APP["id"]}"
key = "{APP["key"]}"
secret = "{APP["secret"]}"
accounts = ["*"]
[api_keys.main]
key = "{API_KEY}"
accounts = ["*"]
trade = ["*"]
[providers.broker]
adapter = "tektii"
url = "BROKER_WS"
http_url = "BROKER_HTTP"
pinned = ["quote AAPL", "account paper"]
accounts.paper.credentials = {{ api_key = "{KEY}" }}
[store]
url = "redis://127.0.0.1:REDIS/0"
[cluster]
node = "NAME"
role = "ROLE"
lease = LEASE
[log]
format = "json"
"""


class Broker(TektiiSimulator):
    """A broker that counts the orders it is sent, and remembers its fills."""

    def __init__(self, interval: float = 0.05) -> None:
        self.sent: Counter[str] = Counter()
        self.fills: list[str] = []
        super().__init__(
            interval=interval,
            requests_per_minute=None,
            subscriptions=[
                Subscription(
                    instrument="AAPL",
                    events=("quote", "order_update", "position_update", "account_update", "trade_update"),
                )
            ],
        )

    async def answer(self, request: HttpRequest) -> HttpResponse:
        if request.method == "POST" and request.target == "/v1/orders":
            self.sent[json.loads(request.body)["client_order_id"]] += 1
        return await super().answer(request)

    def _changed(self, changes: list[Change]) -> None:
        self.fills += [change.id for change in changes if isinstance(change, Filled)]
        super()._changed(changes)

    def rest(self) -> None:
        """Let the market stand still."""
        self._interval = 0

    @property
    def statuses(self) -> dict[str, str]:
        """The status of each order."""
        return {order.id: order.status.value for order in self.account.orders.values()}


@define(eq=False)
class RealNode:
    """One relay: its process, its cable to Redis and its port."""

    name: str
    role: str
    process: Forked
    line: Cable
    port: int = 0

    async def status(self) -> Any:
        """Return its status; None where it does not answer."""
        headers = {"Authorization": f"Bearer {API_KEY}"}
        try:
            async with httpx.AsyncClient(headers=headers, timeout=5, verify=UNTRUSTING) as http:
                return (await http.get(f"http://127.0.0.1:{self.port}/api/v2/status")).json()
        except (httpx.HTTPError, ValueError):
            return None

    async def provider(self) -> Mapping[str, Any]:
        """Return its part in the broker's provider; nothing where it does not answer."""
        status = await self.status()
        return {} if status is None else status["store"]["cluster"]["providers"][0]


@define(eq=False)
class Watcher:
    """A subscriber, and every event that it was told, in order.

    A resume that failed is among them as ``resume_failed``, and the position behind the state that follows as ``position_reached``.
    """

    subscriber: Subscriber
    events: dict[str, list[Mapping[str, Any]]] = field(factory=lambda: {QUOTES: [], ACCOUNT: []})

    def place(self, answer: ResumeFailed | PositionReached) -> None:
        """Note where a channel stands."""
        events = self.events[answer.channel]
        if isinstance(answer, ResumeFailed):
            events.append({"type": "resume_failed", "seq": None, "id": None, "reason": answer.reason})
        if answer.position is not None:
            epoch, seq = answer.position.epoch, answer.position.seq
            events.append({"type": "position_reached", "epoch": epoch, "seq": seq, "id": None})

    def of(self, channel: str, *types: str) -> list[Mapping[str, Any]]:
        return [event for event in self.events[channel] if event["type"] in types]

    async def until(self, holds: Callable[["Watcher"], bool], what: str = "") -> None:
        """Wait until it ``holds``."""
        try:
            await self.subscriber.until(lambda: holds(self), WITHIN)
        except AssertionError as late:
            raise AssertionError(f"{what}: {late}; {self.tail()}") from None

    async def hears(self, more: int = 5) -> None:
        """Wait for so many more quotes."""
        count = len(self.of(QUOTES, "quote")) + more
        await self.until(lambda _: len(self.of(QUOTES, "quote")) >= count, f"{more} more quotes")

    def tail(self) -> str:
        """Return the last events in short."""
        return str([(each["type"], each["seq"], each.get("event"), each.get("reason"), each.get("from")) for each in
                    (*self.events[QUOTES][-3:], *self.events[ACCOUNT][-3:])])  # fmt: skip

    @property
    def stale(self) -> bool:
        """True while it is told that this node does not know whether the quotes are fresh."""
        told = self.of(QUOTES, "staleness", "resume_failed")
        return bool(told) and told[-1].get("event") == "STALE"


@define(eq=False)
class Trader:
    """Sends market orders, one after another, by whichever node answers, each until its outcome is known.

    Nobody ever knows the outcome of one that an owner kept and did not send before it died: after a while it is given up, if
    its reply was told. One that no owner has kept has none: it is sent again until one does, however long there is no owner.
    """

    ports: Callable[[], list[int]]
    arrived: Callable[[str], bool]
    replied: Callable[[str], bool]
    every: float = 0.1
    outcomes: dict[str, str] = field(factory=dict)
    statuses: Counter[int] = field(factory=Counter)
    said: str = ""
    """The last answer that was not an outcome."""
    _stop: bool = False
    stopped: trio.Event = field(factory=trio.Event)

    async def run(self) -> None:
        headers = {"Authorization": f"Bearer {API_KEY}"}
        async with httpx.AsyncClient(headers=headers, timeout=6, verify=UNTRUSTING) as http:
            number = 0
            while not self._stop:
                number += 1
                await self._trade(http, f"c{number}", "BUY" if number % 2 else "SELL", number)
                await trio.sleep(self.every)
        self.stopped.set()

    async def _trade(self, http: httpx.AsyncClient, id: str, side: str, number: int) -> None:
        order = {"provider": "broker", "account": "paper", "command": "place_order", "symbol": "AAPL", "side": side,
                 "order_type": "MARKET", "quantity": "1", "id": id, "client_order_id": f"o-{id}", "within": 3}  # fmt: skip
        unknown = 0
        for attempt in range(10_000):
            ports = self.ports()
            if ports:
                try:
                    url = f"http://127.0.0.1:{ports[(number + attempt) % len(ports)]}/api/v2/commands"
                    answer = await http.post(url, json=order)
                except httpx.HTTPError:
                    self.statuses[0] += 1
                else:
                    self.statuses[answer.status_code] += 1
                    if answer.status_code in (200, 422) and "outcome" in answer.json():
                        self.outcomes[id] = answer.json()["outcome"]
                        return
                    assert answer.status_code in (202, 503, 429), (id, answer.status_code, answer.text)
                    self.said = f"{answer.status_code} {answer.text}"
                    unknown += answer.status_code == 202 and not self.arrived(f"o-{id}")
                    if unknown > 4 and self.replied(id):
                        self.outcomes[id] = "unknown"
                        return
            await trio.sleep(0.1)

    async def trades(self, more: int) -> None:
        """Wait until so many more commands have their outcome."""
        count = len(self.outcomes) + more
        with trio.move_on_after(WITHIN):
            while len(self.outcomes) < count:
                await trio.sleep(0.02)
        assert len(self.outcomes) >= count, f"{self.outcomes}; last answer: {self.said}"

    async def stop(self) -> None:
        """Finish the command that is under way, and no other."""
        self._stop = True
        with trio.fail_after(WITHIN):
            await self.stopped.wait()


class LogWatch:
    """Everything that was ever in the logs: it reads along, on a connection of its own."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.entries: dict[str, list[LogEntry]] = {}
        self.at = dict.fromkeys((log_key("broker", name) for name in LOGS), LogPosition(0, 0))
        self.missed = False
        """True if Redis lost what was read, or may have lost what was not."""

    async def run(self) -> None:
        while True:
            try:
                policy = coredis.retry.NoRetryPolicy()
                async with coredis.Redis.from_url(self._url, verify_version=False, retry_policy=policy) as client:
                    while True:
                        await self._read(client)
            except (coredis.exceptions.RedisError, OSError, ExceptionGroup):
                await trio.sleep(0.05)

    async def _read(self, client: Any) -> None:
        ids = {key: f"{fence}-{n}" for key, (fence, n) in self.at.items()}
        with trio.move_on_after(5):
            for key, batches in ((await client.xread(ids, count=100, block=100)) or {}).items():
                for batch in batches:
                    read = decode(batch.field_values[b"b"])
                    self.at[key.decode()] = read.position
                    for entry in read.entries:
                        self.entries.setdefault(entry.topic, []).append(entry)

    async def read_to_the_end(self) -> None:
        """Wait until nothing new comes."""
        before = None
        while before != self.at:
            before = dict(self.at)
            await trio.sleep(0.4)


class RealCluster:
    """The processes, and what a test does to them."""

    def __init__(
        self, forks: ForkServer, directory: Path, redis: RedisServer, broker: Broker, text: str, nursery: trio.Nursery
    ) -> None:
        self.redis, self.broker = redis, broker
        self.nodes: list[RealNode] = []
        self.watchers: dict[str, Watcher] = {}
        self.log = LogWatch(redis.url)
        self._forks, self._directory, self._text, self._nursery = forks, directory, text, nursery
        self.trader = Trader(
            lambda: [node.port for node in self.alive()], lambda id: broker.sent[id] > 0, self._was_replied_to
        )
        self.started = 0

    def _was_replied_to(self, id: str) -> bool:
        replies = (event for watcher in self.watchers.values() for event in watcher.of(ACCOUNT, "reply"))
        return any(event["command_id"] == id for event in replies)

    def alive(self) -> list[RealNode]:
        """Return the nodes that run."""
        return [node for node in self.nodes if node.port and not node.process.ended]

    async def node(self, name: str, role: str = "both") -> RealNode:
        """Start a node, and wait until it listens."""
        line: Cable = await self._nursery.start(self._lay_cable)
        self.started += 1
        path = self._directory / f"{name}-{self.started}.toml"
        path.write_text(self._text.replace("REDIS", str(line.port)).replace("NAME", name).replace("ROLE", role))
        process = self._forks.start(path.with_suffix(".log"), "serve", "-c", str(path))
        node = RealNode(name, role, process, line)
        self.nodes.append(node)
        node.port = await process.listening()
        return node

    async def _lay_cable(self, task_status: trio.TaskStatus[Cable]) -> None:
        async with cable(self.redis.port) as line:
            task_status.started(line)
            await trio.sleep_forever()

    async def owner(self, but: RealNode | None = None, *, connected: bool = True) -> RealNode:
        """Wait until a node (other than ``but``) owns the broker's sessions, and return it."""
        with trio.fail_after(WITHIN):
            while True:
                for node in self.alive():
                    if node is but:
                        continue
                    status = await node.status()
                    if status is None or not status["store"]["cluster"]["providers"][0]["owns"]:
                        continue
                    if not connected or all(each["state"] == "CONNECTED" for each in status["sessions"]):
                        return node
                await trio.sleep(0.1)

    def watch(self, name: str, port: Callable[[], int]) -> Watcher:
        """Have a subscriber at a port."""
        app = App(id=APP["id"], key=APP["key"], secrets=(APP["secret"],))
        watcher: Watcher

        def heard(channel: str, event: Mapping[str, Any]) -> None:
            watcher.events[channel].append(event)

        def placed(answer: ResumeFailed | PositionReached) -> None:
            watcher.place(answer)

        watcher = Watcher(Subscriber(port, app, [QUOTES, ACCOUNT], heard=heard, placed=placed))
        self.watchers[name] = watcher
        self._nursery.start_soon(watcher.subscriber.run)
        return watcher

    async def begin(self, *names: str, **ports: Callable[[], int]) -> None:
        """Start these nodes, of which the first one is the owner, and an edge; subscribe at each, and trade.

        ``ports`` are more subscribers, by name.
        """
        for number, name in enumerate((*names, "edge")):
            node = await self.node(name, "edge" if name == "edge" else "both")
            if not number:
                await self.owner()
            self.watch(name, partial(getattr, node, "port"))
        for name, port in ports.items():
            self.watch(name, port)
        self._nursery.start_soon(self.log.run)
        self._nursery.start_soon(self.trader.run)
        for watcher in self.watchers.values():
            await watcher.until(lambda watcher: watcher.subscriber.views[ACCOUNT].position is not None, "subscribed")
            await watcher.hears()
        await self.trader.trades(2)

    def by_name(self, name: str) -> RealNode:
        """Return the newest node of a name."""
        return next(node for node in reversed(self.nodes) if node.name == name)

    async def goes_on(self, *names: str, trades: int = 3) -> None:
        """Wait until the subscribers of these names (of all) have news, fresh, and commands are carried out."""
        await self.owner()
        await self.trader.trades(trades)
        for name in names or self.watchers:
            await self.watchers[name].hears()
            await self.watchers[name].until(lambda watcher: not watcher.stale, f"{name} fresh")

    async def end(self, *names: str) -> "Judge":
        """Stop trading, wait until everybody has heard of everything, and return the judge of it."""
        await self.trader.stop()
        self.broker.rest()
        judge = Judge(self, {name: self.watchers[name] for name in names or self.watchers})
        await judge.settle()
        return judge

    def forget(self, node: RealNode) -> None:
        """End a node's process, and do without it."""
        node.process.close()
        self.nodes.remove(node)

    def close(self) -> None:
        """End all processes."""
        for node in self.nodes:
            node.process.close()


class Judge:
    """Judges a run at its end. Every method returns what is wrong, as text."""

    def __init__(self, cluster: RealCluster, watchers: Mapping[str, Watcher]) -> None:
        self.cluster, self.watchers = cluster, watchers

    async def settle(self) -> None:
        """Wait until each subscriber has heard of every fill and reply that there is."""
        broker, trader = self.cluster.broker, self.cluster.trader
        for name, watcher in self.watchers.items():

            def all_told(watcher: Watcher) -> bool:
                fills = {event["trade"]["id"] for event in watcher.of(ACCOUNT, "trade")}
                replies = {event["command_id"] for event in watcher.of(ACCOUNT, "reply")}
                return fills >= set(broker.fills) and replies >= set(trader.outcomes)

            with trio.move_on_after(WITHIN):
                await watcher.until(all_told, name)
        await self.cluster.log.read_to_the_end()

    def counts(self) -> str:
        """Return how much there was to be told."""
        told = {name: {channel: len(events) for channel, events in watcher.events.items()}
                for name, watcher in self.watchers.items()}  # fmt: skip
        trader = self.cluster.trader
        begun_anew = {name: len([*watcher.of(QUOTES, "resume_failed"), *watcher.of(ACCOUNT, "resume_failed")])
                      for name, watcher in self.watchers.items()}  # fmt: skip
        return (
            f"commands {len(trader.outcomes)}, answers {dict(trader.statuses)}, fills {len(self.cluster.broker.fills)}, "
            f"{told}, resumes that failed {begun_anew}"
        )

    def all(self) -> list[str]:
        """Return all that is wrong."""
        return [*self.orders(), *self.fills(), *self.replies(), *self.sequences()]

    def orders(self) -> list[str]:
        """Orders that were sent twice, and those whose last state is not the broker's."""
        broker = self.cluster.broker
        wrong = [f"{id} was sent {count} times" for id, count in broker.sent.items() if count > 1]
        for name, watcher in self.watchers.items():
            last = {event["order"]["id"]: event["order"]["status"] for event in watcher.of(ACCOUNT, "order")}
            given_up = self._given_up(name)["order"]
            wrong += [
                f"{name} has order {id} {last.get(id)}, the broker {status}"
                for id, status in broker.statuses.items()
                if last.get(id) != status and id not in given_up
            ]
        return wrong

    def fills(self) -> list[str]:
        """Fills that a subscriber was not told once."""
        broker = self.cluster.broker
        wrong = []
        for name, watcher in self.watchers.items():
            told = Counter(event["trade"]["id"] for event in watcher.of(ACCOUNT, "trade"))
            given_up = self._given_up(name)["trade"]
            wrong += [
                f"{name} was told of fill {id} {told[id]} times"
                for id in broker.fills
                if told[id] != (id not in given_up)
            ]
            wrong += [f"{name} was told of fill {id}, which there is not" for id in told.keys() - set(broker.fills)]
        return wrong

    def replies(self) -> list[str]:
        """Commands whose reply a subscriber did not get once, or that is not the one that the sender got.

        A sender who repeats one of unknown outcome may be told more than the reply did: what the account's stream showed.
        """
        wrong = []
        for name, watcher in self.watchers.items():
            told: dict[str, list[Mapping[str, Any]]] = {}
            given_up = self._given_up(name)["reply"]
            for event in watcher.of(ACCOUNT, "reply"):
                told.setdefault(event["command_id"], []).append(event)
            for id, outcome in self.cluster.trader.outcomes.items():
                replies = told.get(id, [])
                if not replies and id in given_up:
                    continue
                if len(replies) != 1 or replies[0]["outcome"] not in (outcome, "unknown"):
                    said = [(each["seq"], each["outcome"], each["received_at"], each.get("error")) for each in replies]
                    wrong.append(f"{name} was told of the reply to {id}: {said}, the sender: {outcome}")
        return wrong

    def sequences(self) -> list[str]:
        """Differences between what a subscriber got, and the log with the gaps that it was told of."""
        wrong = []
        for channel in (QUOTES, ACCOUNT):
            entries = self._entries(channel)
            told = {name: compare(watcher.events[channel], entries) for name, watcher in self.watchers.items()}
            wrong += [f"{name}, {channel}: {what}" for name, each in told.items() for what in each.faults]
            wrong += [f"{channel}: {what}" for what in (*log_faults(entries), *number_faults(told, entries))]
        return wrong

    def _entries(self, channel: str) -> list[LogEntry]:
        key = stream_key(parse_channel(channel))
        assert key is not None
        entries = self.cluster.log.entries[key]
        assert entries, f"the log has nothing of {channel}"
        return entries

    def _given_up(self, name: str) -> Mapping[str, set[str]]:
        """Return the orders, fills and commands of which a subscriber was told that it will not be told, by kind."""
        entries = self._entries(ACCOUNT)
        lost = compare(self.watchers[name].events[ACCOUNT], entries).lost
        last: dict[tuple[str, str], bool] = {}
        for entry in entries:
            event = json.loads(decode_data(entry.tail))
            kind = event["type"]
            if kind in ("order", "trade", "reply"):
                last[kind, event["command_id"] if kind == "reply" else event[kind]["id"]] = entry.id in lost
        return {
            kind: {id for (of, id), is_lost in last.items() if of == kind and is_lost}
            for kind in ("order", "trade", "reply")
        }


@define
class Lost:
    """The numbers that a gap stands for: of one epoch, or, where it names none, all that went before."""

    epoch: str = ""
    first: float = math.inf
    last: float = -math.inf

    @classmethod
    def by(cls, gap: Mapping[str, Any], epoch: str) -> "Lost":
        """Return what a gap in this epoch stands for."""
        if "from" not in gap and "to" not in gap:
            return cls("", -math.inf, math.inf)
        return cls(epoch, gap.get("from", -math.inf), gap.get("to", math.inf))

    def __contains__(self, entry: LogEntry) -> bool:
        return self.epoch in ("", entry.epoch) and self.first <= entry.seq <= self.last


@define
class Told:
    """One subscriber's events of a channel, beside those of the log.

    Attributes:
        faults: what is wrong.
        lost: the ids of entries in whose place it was told of a loss: by a gap, or by a resume that failed.
        numbers: the ids of the events that it was told, by epoch and number; without those that stand for none of their own.
    """

    faults: list[str] = field(factory=list)
    lost: set[str] = field(factory=set)
    numbers: dict[tuple[str, int], str] = field(factory=dict)


def compare(events: Iterable[Mapping[str, Any]], entries: list[LogEntry]) -> Told:
    """Return whether ``events`` are ``entries`` in order, with all that is left out covered by a gap right before.

    An event that this node alone told (a gap over what it missed, a staleness) is in no log. Neither are quotes that only the
    subscribers of an owner saw before it died: nobody else has seen their numbers. At the beginning, and behind a resume that
    failed, come the present states, each as an event that may have been told before, and then the position up to which they
    stand for all. A position elsewhere begins an epoch, and explains nothing: the gap behind it does. A quote, or an account's
    money, may be left out where a newer one was told: what is resumed at once may be more than an outbox holds.
    """
    at = {entry.id: number for number, entry in enumerate(entries)}
    events = list(events)
    newest: dict[tuple[str, str], int] = {}
    for event in events:
        if event["id"] in at and (entry := entries[at[event["id"]]]).policy == Policy.CONFLATE.value:
            newest[entry.policy, entry.key] = max(at[event["id"]], newest.get((entry.policy, entry.key), -1))
    told = Told()
    last: int | None = None
    epoch = ""
    gap = Lost()
    seen: set[str] = set()
    are_states = True
    for event in events:
        if event["type"] == "resume_failed":
            are_states = True
            continue
        if event["type"] == "position_reached":
            epoch = event["epoch"]
            if are_states:
                reached = _newest(entries, epoch, event["seq"])
                if last is not None and reached is not None:
                    told.lost |= {entry.id for entry in entries[last + 1 : reached + 1]}
                last = last if reached is None else reached
            are_states = False
            continue
        if are_states:
            continue
        here, what = at.get(event["id"]), f"{event['type']} {event['seq']} ({event['id']})"
        if event["type"] == "gap":
            gap = Lost.by(event, epoch)
        if here is None:
            if event["type"] not in ("gap", "staleness"):
                told.numbers[epoch, event["seq"]] = event["id"]
            continue
        entry = entries[here]
        if (entry.epoch, entry.seq) != (epoch, event["seq"]):
            told.faults.append(f"{what} in {epoch} is {entry.seq} in {entry.epoch} of the log")
        told.numbers[entry.epoch, entry.seq] = event["id"]
        if event["id"] in seen:
            told.faults.append(f"{what} twice")
        elif last is not None and here <= last:
            told.faults.append(f"{what} out of order")
        elif last is not None:
            left_out = entries[last + 1 : here]
            told.lost |= {each.id for each in left_out if each in gap}
            unsaid = [
                each
                for number, each in enumerate(left_out, start=last + 1)
                if each not in gap and newest.get((each.policy, each.key), -1) <= number
            ]
            told.faults += [
                f"{each.seq} in {each.epoch} ({each.tail!r}) is left out before {what} in {epoch}"
                for each in unsaid[:5]
            ]
        seen.add(event["id"])
        last = here
        if event["type"] != "gap":
            gap = Lost()
    return told


def log_faults(entries: Iterable[LogEntry]) -> list[str]:
    """Return the numbers of a topic's log that do not follow those before, in their epoch, and epochs that come back."""
    last: dict[str, int] = {}
    wrong, epoch = [], None
    for entry in entries:
        if entry.epoch != epoch and entry.epoch in last:
            wrong.append(f"the log goes back from epoch {epoch} to {entry.epoch}")
        epoch = entry.epoch
        if entry.first <= last.get(epoch, 0):
            wrong.append(f"the log has {entry.first} to {entry.seq} behind {last[epoch]} in {epoch}")
        last[epoch] = entry.seq
    return wrong


def number_faults(told: Mapping[str, Told], entries: Iterable[LogEntry]) -> list[str]:
    """Return the numbers of a topic that mean different events to different subscribers, or in the log."""
    known = {(entry.epoch, entry.seq): ("the log", entry.id) for entry in entries}
    wrong = []
    for name, each in told.items():
        for (epoch, seq), id in each.numbers.items():
            who, before = known.setdefault((epoch, seq), (name, id))
            if before != id:
                wrong.append(f"{seq} in {epoch} is {before} to {who}, and {id} to {name}")
    return wrong


def _newest(entries: list[LogEntry], epoch: str, seq: int) -> int | None:
    """Return the place of an epoch's newest entry up to a number, or before its first one; None where it has none."""
    places = [number for number, entry in enumerate(entries) if entry.epoch == epoch]
    if not places:
        return None
    return max((number for number in places if entries[number].seq <= seq), default=places[0] - 1)


@asynccontextmanager
async def real_cluster(
    forks: ForkServer,
    directory: Path,
    *,
    lease: float = 2.0,
    interval: float = 0.05,
    redis_options: tuple[str, ...] = (),
) -> AsyncIterator[RealCluster]:
    """Have a Redis, a broker and no relay yet."""
    broker = Broker(interval)
    async with broker.serve() as address, redis_server(directory) as redis, trio.open_nursery() as nursery:
        text = CONFIGURATION.replace("BROKER_WS", address.ws).replace("BROKER_HTTP", address.http)
        cluster = RealCluster(forks, directory, redis, broker, text.replace("LEASE", str(lease)), nursery)
        try:
            yield cluster
        finally:
            cluster.close()
        nursery.cancel_scope.cancel()
