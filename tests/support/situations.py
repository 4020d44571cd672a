"""What goes wrong between a provider and a subscriber, each once, and what three channels say of it.

`SITUATIONS` is what `docs/honesty.md` shows. Each begins with data flowing, unless it says otherwise, and ends when the last event
that belongs to it was heard; nothing waits for a time.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import groupby
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import attrs
import httpx
import trio
import trio.lowlevel
from attrs import Factory, define, frozen
from trio_websocket import ConnectionClosed

from relay.adapter import Adapter
from relay.app import Relay
from relay.provider import liveness
from relay.pusher.apps import App as PusherApp
from relay.testing.faults import Cut, FaultProxy, Stall
from relay.testing.subscriber import ResumeFailed, Subscriber, SubscriptionError
from support.acme import SYMBOL, Acme, AcmePlugin, AcmeSimulator
from support.deadlines import WITHIN
from support.running import API_KEY, APP, port_of, running_relay

OUR_APP = PusherApp(id=APP["id"], key=APP["key"], secrets=(APP["secret"],))
QUOTE, DEPTH, ACCOUNT, STATUS = "quote.acme.EUR-USD", "depth.acme.EUR-USD", "private-account.acme.main", "status.acme"

Said = Mapping[str, Any]


class Watcher(Subscriber):
    """A subscriber that also notes what became of its connection."""

    async def _connect(self) -> None:
        try:
            await super()._connect()
        except* ConnectionClosed as lost:
            closed = lost.exceptions[0]
            while isinstance(closed, BaseExceptionGroup):
                closed = closed.exceptions[0]
            code = closed.reason.code if closed.reason else None
            self._note({"type": "closed", "code": code})
            raise

    async def _take(self, machine: Any, socket: Any, signal: object) -> None:
        if isinstance(signal, ResumeFailed):
            self._heard(signal.channel, {"type": "resume failed", "reason": signal.reason})
        if isinstance(signal, SubscriptionError):
            self._heard(signal.channel, {"type": "subscription error", "reason": signal.error})
        await super()._take(machine, socket, signal)

    def _note(self, event: Said) -> None:
        for channel in self.views:
            self._heard(channel, event)


@define
class Stage:
    """A relay between a provider and subscribers. ``heard`` is what the subscriber heard that the situation is about."""

    relay: Relay
    venue: AcmeSimulator
    upstream: FaultProxy
    downstream: FaultProxy
    data: str
    nursery: trio.Nursery
    restart: Callable[[], Awaitable[None]]
    heard: list[tuple[str, Said]] = Factory(list)
    watcher: Any = None
    began: int = 0
    gate: Any = None

    def watch(self, *channels: str) -> None:
        """Let a subscriber join, and be the one who is listened to."""
        self.heard, self.began = [], 0
        heard = self.heard
        self.watcher = Watcher(
            lambda: self.downstream.port, OUR_APP, channels or (STATUS, ACCOUNT, self.data),
            activity_timeout=30, heard=lambda channel, event: heard.append((channel, event)),
        )  # fmt: skip
        self.nursery.start_soon(self.watcher.run)

    def begin(self) -> None:
        """What is heard from now on belongs to the situation."""
        self.began = len(self.heard)

    def on(self, channel: str) -> list[Said]:
        return [event for name, event in self.heard[self.began :] if name == channel]

    def words(self, channel: str) -> list[str]:
        return words(self.on(channel))

    async def until(self, channel: str, *last: str) -> None:
        """Wait until the channel has said these words, in this order, with others between them or not."""

        def said() -> bool:
            rest = iter(self.words(channel))
            return all(any(text.startswith(word) for text in rest) for word in last)

        try:
            await self.watcher.until(said)
        except AssertionError:
            raise AssertionError(f"{channel}: no {last} in {self.words(channel)}") from None

    async def flowing(self) -> None:
        """Wait until there are data, and the account is known."""
        await self.watcher.until(lambda: all(view.position for view in self.watcher.views.values()))
        await self.watcher.until(lambda: bool(self.on(self.data)))
        await self.asked(1)
        self.venue.position("p1", "1")
        await self.until(ACCOUNT, "position")

    async def asked(self, count: int) -> None:
        """Wait until the lists were asked for so many times."""
        with trio.fail_after(WITHIN):
            while len(self.venue.requests) < count:
                await trio.sleep(0.005)

    def counters(self) -> Mapping[str, Any]:
        ((_, session),) = self.relay.providers.connections()
        counters: Mapping[str, Any] = session.status()["counters"]
        return counters

    async def counted(self, holds: Callable[[Mapping[str, Any]], bool]) -> None:
        """Wait until it holds of the session's counters."""
        with trio.fail_after(WITHIN):
            while not holds(self.counters()):
                await trio.sleep(0.001)

    def hold(self) -> int:
        """Hold back the answers to requests for the lists; return the number of the next one."""
        self.gate = trio.Semaphore(0)
        self.venue.before_answer = self.gate.acquire
        return len(self.venue.requests) + 1

    async def release(self, number: int) -> None:
        """Send the answer to this request, and wait until the relay has read it."""
        await self.asked(number)
        self.venue.quote()
        last = self.venue.last_bid
        await self.watcher.until(lambda: self.on(QUOTE)[-1].get("quote", {}).get("bid") == last)
        read = self.counters()["messages"]
        self.gate.release()
        await self.counted(lambda counters: counters["messages"] > read)

    async def lose(self, attempt: str = "connection RECONNECTING gap_ms (no connection") -> None:
        """Lose the session. It is told when an attempt to come back has failed, however long one takes."""
        self.upstream.down()
        await self.until(STATUS, attempt)
        ((_, session),) = self.relay.providers.connections()
        outage = session._machine._subscriptions._topics.outage
        assert outage is not None
        outage.due_at = 0.0
        await self.until(QUOTE, "staleness STALE")
        await self.until(ACCOUNT, "staleness STALE")

    async def settle(self) -> None:
        """Wait until what was sent until now has been heard: of one more order."""
        self.venue.order("last", "OPEN")
        await self.until(ACCOUNT, "order ORDER_CREATED last")

    async def again(self) -> None:
        """Wait until the session is back and prices come."""
        await self.until(STATUS, "connection CONNECTED")
        await self.watcher.until(lambda: bool(self.venue.links))
        self.venue.quote()
        await self.until(self.data, "gap", "quote")


Play = Callable[[Stage], Awaitable[None]]


@frozen
class Situation:
    """One row of the page.

    Attributes:
        data: the channel of data that is listened to.
        table: more keys of the provider's table; ``tables``: more tables.
        session: changes of the adapter's declaration.
        ahead: seconds by which the provider's clock is ahead.
        blinks: the session is back before its loss is told, however busy this machine is, unless `Stage.lose` has it told.
        flows: begin with data flowing.
        on_disk: the relay has a store on disk.
    """

    title: str
    play: Play
    data: str = QUOTE
    table: Mapping[str, Any] = Factory(dict)
    tables: Mapping[str, Any] = Factory(dict)
    session: Mapping[str, Any] = Factory(dict)
    ahead: float = 0.0
    blinks: bool = False
    flows: bool = True
    on_disk: bool = False


SITUATIONS: dict[str, Situation] = {}


def situation(title: str, **options: Any) -> Callable[[Play], Play]:
    def added(play: Play) -> Play:
        SITUATIONS[play.__name__.replace("_", " ")] = Situation(title, play, **options)
        return play

    return added


# --- the session -----------------------------------------------------------------------------------------------------


@situation("The session is lost for a second", blinks=True)
async def session_lost(s: Stage) -> None:
    await s.lose()
    s.upstream.up()
    await s.again()
    await s.until(ACCOUNT, "gap", "staleness FRESH")


@situation("The same for less than 0.15 s", blinks=True)
async def session_blinks(s: Stage) -> None:
    s.upstream.inject(Cut())
    await s.again()
    await s.until(ACCOUNT, "gap")


@situation("Who joins while the session is gone", blinks=True)
async def joins_meanwhile(s: Stage) -> None:
    await s.lose()
    s.watch()
    await s.until(QUOTE, "staleness STALE")
    await s.until(ACCOUNT, "staleness STALE")
    await s.until(STATUS, "connection RECONNECTING")
    s.upstream.up()
    await s.again()
    await s.until(ACCOUNT, "gap", "staleness FRESH")


@situation("The provider has not been reached since the start", flows=False, blinks=True)
async def never_reached(s: Stage) -> None:
    s.watch()
    await s.lose("connection RECONNECTING (no connection")


@situation("The line is mute", session={"silent_after": 2.0})
async def mute_line(s: Stage) -> None:
    s.upstream.inject(Stall())
    s.upstream.next_connection(Stall())
    await s.until(QUOTE, "staleness STALE")
    await s.until(ACCOUNT, "staleness STALE")


# --- streams ---------------------------------------------------------------------------------------------------------


@situation(
    "A subscription is acknowledged, and nothing comes (`first_data_within`)",
    table={"first_data_within": 0.3},
    flows=False,
)
async def acked_and_mute(s: Stage) -> None:
    s.venue.mute = True
    s.watch()
    await s.until(QUOTE, "staleness STALE")
    s.venue.quote()
    await s.until(QUOTE, "staleness FRESH", "quote")


@situation("A subscription is never answered", session={"ack_within": 0.2}, flows=False)
async def never_acked(s: Stage) -> None:
    s.venue.acknowledges = False
    s.watch()
    await s.until(QUOTE, "staleness STALE")
    await s.until(STATUS, "error")


@situation("A stream falls silent (`stale_after`)", table={"stale_after": {"quote": 0.3}}, flows=False)
async def silent_stream(s: Stage) -> None:
    s.watch()
    await s.until(QUOTE, "quote", "staleness STALE")
    s.venue.quote()
    await s.until(QUOTE, "staleness FRESH", "quote")


@situation("The provider refuses the subscription", flows=False)
async def refused(s: Stage) -> None:
    s.venue.refuses = "market data are not part of your plan"
    s.watch()
    await s.until(QUOTE, "staleness STALE")
    await s.until(STATUS, "error")


@situation("The symbol is not in the provider's list", data="quote.acme.EUR-USX", flows=False)
async def unknown_symbol(s: Stage) -> None:
    s.watch()
    await s.watcher.until(lambda: bool(s.on("quote.acme.EUR-USX")) or bool(s.watcher.refused))


@situation("A number is missing in a book", data=DEPTH)
async def missing_number(s: Stage) -> None:
    s.venue.delta(skip=1)
    await s.until(DEPTH, "gap", "depth snapshot")


@situation("A book's checksum does not match", data=DEPTH)
async def wrong_checksum(s: Stage) -> None:
    s.venue.delta(checksum="-1")
    await s.until(DEPTH, "gap", "depth snapshot")


# --- the account -----------------------------------------------------------------------------------------------------


@situation("An order is filled while the session is gone", blinks=True)
async def filled_in_absence(s: Stage) -> None:
    await _order_open(s)
    await s.lose()
    s.venue.order("o1", "FILLED", "2", told=False)
    s.venue.fill("f1", "o1", "2", told=False)
    s.upstream.up()
    await s.again()
    await s.until(ACCOUNT, "gap", "staleness FRESH")
    await s.settle()


@situation("The same, and the provider's clock is 2 minutes ahead", ahead=120.0, blinks=True)
async def clock_ahead(s: Stage) -> None:
    await filled_in_absence(s)


@situation("The same, and the provider's clock is 2 minutes behind", ahead=-120.0, blinks=True)
async def clock_behind(s: Stage) -> None:
    await filled_in_absence(s)


@situation("An order is gone after an absence, and nothing says why", blinks=True)
async def vanished_order(s: Stage) -> None:
    await _order_open(s)
    s.venue.listing = lambda items: [item for item in items if item[:2] != ["order", "o1"]]
    s.upstream.inject(Cut())
    await s.again()
    await s.until(ACCOUNT, "order ORDER_MODIFIED o1")
    await s.settle()


@situation("The list after an absence is older than the stream, and the next one is right", blinks=True)
async def lagging_list(s: Stage) -> None:
    await _order_open(s, "o1")
    old = s.venue.true_list()
    s.venue.order("o1", "FILLED", "2")
    s.venue.fill("f1", "o1", "2")
    s.venue.order("o2", "OPEN")
    s.venue.position("p1", "3")
    await s.until(ACCOUNT, "order ORDER_CREATED o2", "position POSITION_MODIFIED p1")
    s.begin()
    number = s.hold()
    s.venue.listing = lambda items: old if len(s.venue.requests) == number else items
    s.upstream.inject(Cut())
    await s.again()
    await s.until(ACCOUNT, "gap")
    await s.release(number)
    await s.release(number + 1)
    await s.settle()


@situation("The list comes late, and the stream goes on meanwhile", blinks=True)
async def late_list(s: Stage) -> None:
    await _order_open(s)
    number = s.hold()
    s.upstream.inject(Cut())
    await s.again()
    await s.asked(number)
    s.venue.order("o1", "FILLED", "2")
    s.venue.fill("f1", "o1", "2")
    await s.until(ACCOUNT, "order ORDER_FILLED o1", "trade")
    await s.release(number)
    await s.settle()


@situation("The list is yesterday's", blinks=True)
async def old_list(s: Stage) -> None:
    await _order_open(s, "o1")
    old = [[*item[:-1], "2020-01-01T00:00:00Z"] if len(item) > 2 else item for item in s.venue.true_list()]
    s.venue.order("o1", "CANCELLED")
    s.venue.position("p1", "3")
    await s.until(ACCOUNT, "order ORDER_CANCELLED o1", "position POSITION_MODIFIED p1")
    s.begin()
    number = s.hold()
    s.venue.listing = lambda items: old
    s.upstream.inject(Cut())
    await s.again()
    await s.until(ACCOUNT, "gap")
    await s.release(number)
    await s.settle()


@situation("The same figures and times are spelled otherwise in the list", blinks=True)
async def other_spelling(s: Stage) -> None:
    await _order_open(s)
    number = s.hold()
    s.venue.listing = lambda items: [_respelled(item) for item in items]
    s.upstream.inject(Cut())
    await s.again()
    await s.until(ACCOUNT, "gap")
    await s.release(number)
    await s.settle()


@situation("The stream keeps a fill back (`audit`)", table={"audit": 0.5})
async def only_in_the_list(s: Stage) -> None:
    await _order_open(s)
    s.venue.order("o1", "FILLED", "2", told=False)
    s.venue.fill("f1", "o1", "2", told=False)
    await s.until(ACCOUNT, "order", "trade")
    await s.until(STATUS, "error")


@situation("A fill comes after the end of its order")
async def fill_after_the_end(s: Stage) -> None:
    await _order_open(s)
    s.venue.fill("f1", "o1", "1")
    s.venue.order("o1", "CANCELLED", "1")
    s.venue.fill("f2", "o1", "1")
    await s.until(ACCOUNT, "order ORDER_FILLED o1")


@situation("The stream says everything twice")
async def said_twice(s: Stage) -> None:
    s.venue.order("o1", "OPEN")
    s.venue.say(s.venue.orders["o1"])
    s.venue.fill("f1", "o1", "2")
    s.venue.say(s.venue.fills["f1"])
    s.venue.order("o1", "FILLED", "2")
    s.venue.say(s.venue.orders["o1"])
    await s.settle()


async def _order_open(s: Stage, id: str = "o1") -> None:
    s.venue.order(id, "OPEN")
    await s.until(ACCOUNT, f"order ORDER_CREATED {id}")
    s.begin()


def _respelled(item: list[Any]) -> list[Any]:
    """``2`` as ``2.00``, and ``...40.5Z`` as ``...40.500+00:00``."""

    def other(value: Any) -> Any:
        if isinstance(value, str) and re.fullmatch(r"\d+", value):
            return f"{value}.00"
        return value.replace("Z", "+00:00") if isinstance(value, str) and value[:2] == "20" else value

    return [*item[:2], *map(other, item[2:])]


# --- subscribers and the relay ---------------------------------------------------------------------------------------


#: Nobody is dropped for the time that a write or the end of a connection takes: a busy machine fills an outbox slowly.
PATIENT = {"listen": "127.0.0.1:0", "status_public": True, "subscribers": {"close": 300.0, "write": 300.0}}


@situation("The subscriber is slow", tables={"server": PATIENT})
async def slow_subscriber(s: Stage) -> None:
    await _order_open(s)
    s.downstream.inject(Stall())
    with trio.fail_after(WITHIN):
        while not s.relay.hub.snapshot()["dropped"].get("conflate"):
            s.venue.quote()
            await trio.lowlevel.checkpoint()
    s.venue.order("o1", "FILLED", "2")
    s.downstream.heal()
    await s.until(ACCOUNT, "order ORDER_FILLED o1")
    s.venue.quote()
    last = s.venue.last_bid
    await s.watcher.until(lambda: bool(s.on(QUOTE)) and s.on(QUOTE)[-1]["quote"]["bid"] == last)


@situation("The subscriber does not read at all", tables={"outbox": {"messages": 64}, "server": PATIENT})
async def unread(s: Stage) -> None:
    s.downstream.inject(Stall())
    with trio.fail_after(WITHIN):
        number = 0
        while s.relay.hub.connections:
            number += 1
            known = s.counters()["published"]
            s.venue.order(f"o{number}", "OPEN")
            await s.counted(lambda counters, known=known: counters["published"] > known)
    s.downstream.heal()
    await s.watcher.until(lambda: any(event.get("order", {}).get("id") == f"o{number}" for event in s.on(ACCOUNT)))


@situation("The relay is restarted")
async def restarted(s: Stage) -> None:
    await s.restart()
    await s.watcher.until(lambda: bool([word for word in s.words(QUOTE) if word == "quote"]))


@situation("The relay is restarted, with a store on disk", on_disk=True)
async def resumed(s: Stage) -> None:
    await s.restart()
    await s.again()
    await s.until(ACCOUNT, "gap")


@situation(
    "The store is unavailable",
    tables={
        "store": {"url": "sqlite:////nowhere/there/s.sqlite3"},
        "api_keys": {"main": {"key": API_KEY, "trade": ["*"]}},
    },
)
async def no_store(s: Stage) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port_of(s.relay)}") as client:
        order = {"provider": "acme", "command": "place_order", "account": "main", "symbol": SYMBOL, "side": "BUY",
                 "order_type": "MARKET", "quantity": "1"}  # fmt: skip
        answer = await client.post(
            "/api/v2/commands", json=order, headers={"Authorization": f"Bearer {API_KEY}", "Idempotency-Key": "k"}
        )
    code = answer.json()["error"]["code"]
    s.heard.append((ACCOUNT, {"type": "command refused", "code": f"{answer.status_code} {code}"}))
    s.venue.quote()
    await s.until(QUOTE, "quote")


# --- running them ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def stage(of: Situation, directory: str) -> AsyncIterator[Stage]:
    """A relay of its own for one situation."""
    tables = {"store": {"url": f"sqlite:///{directory}/s.sqlite3"}, **of.tables} if of.on_disk else of.tables
    venue = AcmeSimulator()
    venue.ahead = of.ahead

    def adapt(adapter: type[Adapter]) -> type[Adapter]:
        if adapter is not Acme:
            return adapter
        return type("Acme", (Acme,), {"session": attrs.evolve(Acme.session, **{"ack_within": 60.0, **of.session})})

    async with venue.serve() as address, FaultProxy(address.port).serve() as upstream:
        table = {
            "adapter": "acme",
            "url": f"ws://127.0.0.1:{upstream.port}/ws",
            "http_url": f"http://127.0.0.1:{upstream.port}",
            "accounts": {"main": {"credentials": {}}},
            "linger": 60.0,
            **of.table,
        }
        if not of.flows and of.title.startswith("The provider has not"):
            upstream.down()
        async with trio.open_nursery() as relays, FaultProxy(0, buffer=4096).serve() as downstream:
            stop, ended = trio.Event(), trio.Event()

            async def run(*, task_status: trio.TaskStatus[Relay]) -> None:
                async with running_relay({"acme": table}, adapt=adapt, stranger=AcmePlugin(), **tables) as relay:
                    task_status.started(relay)
                    await stop.wait()
                ended.set()

            async def start() -> Relay:
                relay: Relay = await relays.start(run)
                downstream.to = port_of(relay)
                return relay

            async def restart() -> None:
                nonlocal stop, ended
                stop.set()
                if of.on_disk:  # the next one cannot have the store before this one has ended
                    downstream.hold()
                    await ended.wait()
                stop, ended = trio.Event(), trio.Event()
                made.relay = await start()
                downstream.up()

            async with trio.open_nursery() as nursery:
                made = Stage(await start(), venue, upstream, downstream, of.data, nursery, restart)
                if of.flows:
                    made.watch()
                    await made.flowing()
                    made.begin()
                yield made
                nursery.cancel_scope.cancel()
            stop.set()


async def played(of: Situation) -> tuple[list[str], list[str], list[str]]:
    """What the channel of data, the account's and the status channel say in a situation."""
    settles = 600.0 if of.blinks else liveness.SETTLES
    with TemporaryDirectory() as directory, patch.object(liveness, "SETTLES", settles):
        async with stage(of, directory) as s:
            await of.play(s)
            return s.words(of.data), s.words(ACCOUNT), s.words(STATUS)


# --- words -----------------------------------------------------------------------------------------------------------


def words(events: list[Said]) -> list[str]:
    """Each event in a few words. Of attempts that repeat themselves the first is there."""
    said: list[str] = []
    number: int | None = None
    for event in events:
        if event["type"] in ("gap", "resume failed", "closed"):
            number = None
        seq = event.get("seq")
        if number is not None and seq is not None and seq > number + 1:
            said.append("(numbers are missing)")
        number = seq if seq is not None else number
        word = _word(event)
        is_attempt = word in said and event["type"] == "connection"
        if not is_attempt and (not said or said[-1] != word):
            said.append(word)
    return _shortened(said)


def _shortened(said: list[str]) -> list[str]:
    """Three or more of a kind in a row are told as one."""
    runs = [list(run) for _, run in groupby(said, key=lambda word: word.split(" ")[:2])]
    return [word for run in runs for word in (run if len(run) < 3 else [f"{' '.join(run[0].split(' ')[:2])} ..."])]


def _word(event: Said) -> str:
    kind = event["type"]
    body = event.get(kind)
    body = body if isinstance(body, dict) else {}
    parts = [kind, event.get("event")]
    match kind:
        case "depth":
            parts.append("snapshot" if body["snapshot"] else "delta")
        case "order":
            parts += [body["id"], body["status"], f"filled {body['filled_quantity']}"]
        case "trade":
            parts += [body["id"], body["quantity"]]
        case "position":
            parts += [body["id"], body["quantity"]]
        case "gap":
            parts.append(f"refill {event['refill']}")
    parts += [flag for flag in ("reconciled", "vanished", "session") if event.get(flag)]
    parts += ["gap_ms"] if event.get("gap_ms") is not None else []
    parts += [event.get("code"), _reason(event.get("reason"))]
    return " ".join(str(part) for part in parts if part not in (None, ""))


def _reason(reason: str | None) -> str | None:
    return None if reason is None else f"({re.sub(r'[0-9.]+ s ago', 'N s ago', reason)})"
