"""A subscriber for tests and soaks: connect, subscribe, check every channel, and reconnect after a loss.

`Subscriber` follows the rules for a good client: it backs off if the close code asks for it, resumes after its last event,
also behind a message that was damaged, and subscribes to a book again after losing a delta. `ChannelView` folds the events
of one channel into the subscriber's state. Its rules: event ids never go back, except that a new subscription first receives
the current state under the original ids; no delta before its snapshot, nor after a gap; no fill twice.
`ChannelView.problems` collects violations as text, so that a test reports them at its end.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any

import msgspec
import trio
from attrs import Factory, define
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection, connect_websocket_url

from relay.pusher.apps import App
from relay.pusher.client import (
    ChannelMessage,
    ClientConnection,
    Established,
    Malformed,
    PositionReached,
    ResumeFailed,
    Subscribed,
    SubscriptionError,
)
from relay.pusher.messages import ResumePosition, SendMessage
from relay.pusher.signatures import channel_auth


@define(eq=False)
class ChannelView:
    """One channel as its subscriber has it.

    Attributes:
        position: the last event seen, None before the first.
        last: the newest event of each kind.
        bids, asks: the book, price -> size, both as numbers; None while there is none.
        held: what is open on the account, by (kind, id): the body of the last event.
        fills: ids of fills, in order.
        kinds: events by kind.
        skipped: numbers that never came: a slow subscriber's conflated quotes, or what `gap` events said was lost.
        lost: resumes that could not be given.
        begun: subscriptions that began anew: of these a channel without a state has no event before the next one.
        torn: a delta was missed without a word, so there is no book before the next snapshot: ask for one.
        problems: what broke a rule.
    """

    channel: str
    position: ResumePosition | None = None
    last: dict[str, Mapping[str, Any]] = Factory(dict)
    bids: dict[Decimal, Decimal] | None = None
    asks: dict[Decimal, Decimal] | None = None
    held: dict[tuple[str, str], Mapping[str, Any]] = Factory(dict)
    fills: list[str] = Factory(list)
    kinds: Counter[str] = Factory(Counter)
    skipped: int = 0
    lost: int = 0
    begun: int = 0
    torn: bool = False
    problems: list[str] = Factory(list)
    _is_newcomer: bool = True

    def joined(self, position: ResumePosition | None, *, resumed: bool) -> None:
        """Note that the subscription holds or was resumed. Without a resume the state may be outdated and is forgotten."""
        if not resumed:
            self.begun += 1
            self.forget()
            self.position = position
            self._is_newcomer = True

    def forget(self) -> None:
        """Discard the state after a gap: it may be out of date."""
        self.bids = self.asks = None
        self.torn = False
        self.held.clear()

    def take(self, event: Mapping[str, Any]) -> None:
        """Fold one canonical event in."""
        kind = event["type"]
        self.kinds[kind] += 1
        if self._number(event) and kind == "depth" and not _is_snapshot(event):
            self.torn = True
        match kind:
            case "depth":
                self._depth(event["depth"])
            case "gap":
                self.bids = self.asks = None
            case "trade":
                self._fill(event["trade"]["id"])
            case "order" | "position":
                self._state(kind, event)
        self.last[kind] = event

    def _number(self, event: Mapping[str, Any]) -> int:
        """Count the event; return how many numbers are missing before it."""
        seq = event["seq"]
        if self.position is None:
            return 0
        if seq > self.position.seq:
            self._is_newcomer = False
        elif not self._is_newcomer and not (seq == self.position.seq and _repairs(event)):
            self.problems.append(f"{self.channel}: {event['type']} under number {seq} after {self.position.seq}")
        missing: int = max(0, seq - self.position.seq - 1)
        self.skipped += missing
        self.position = ResumePosition(self.position.epoch, max(seq, self.position.seq))
        return missing

    def _depth(self, depth: Mapping[str, Any]) -> None:
        if depth["snapshot"]:
            self.bids, self.asks, self.torn = {}, {}, False
        if self.torn:
            self.bids = self.asks = None
            return
        if self.bids is None or self.asks is None:
            self.problems.append(f"{self.channel}: a delta before its snapshot")
            return
        for side, levels in ((self.bids, depth["bids"]), (self.asks, depth["asks"])):
            for price, size in levels:
                if Decimal(size):
                    side[Decimal(price)] = Decimal(size)
                else:
                    side.pop(Decimal(price), None)

    def _fill(self, id: str) -> None:
        if id in self.fills:
            self.problems.append(f"{self.channel}: fill {id} twice")
        self.fills.append(id)

    def _state(self, kind: str, event: Mapping[str, Any]) -> None:
        body = event[kind]
        name = (kind, body["id"])
        ended = {
            "order": event.get("vanished") or body.get("status") in ("FILLED", "CANCELLED", "REJECTED", "EXPIRED"),
            "position": event.get("event") == "POSITION_CLOSED",
        }
        if ended[kind]:
            self.held.pop(name, None)
        else:
            self.held[name] = body

    def open(self, kind: str) -> set[str]:
        """Return the ids of the orders or positions that are open."""
        return {id for held_kind, id in self.held if held_kind == kind}


def _is_snapshot(event: Mapping[str, Any]) -> bool:
    """Return True for a whole book."""
    return event["type"] == "depth" and bool(event["depth"]["snapshot"])


def _repairs(event: Mapping[str, Any]) -> bool:
    """Return True for what a slow subscriber gets for the depth that it lost: a whole book, or, where there is none, a gap.

    Both have the topic's newest number. The event before may have it too, if that one was not lost: a gap, or a warning.
    """
    if event["type"] == "gap":
        return bool(event.get("of") == "depth" and event["reason"] == "slow_subscriber")
    return _is_snapshot(event)


_WITHIN = 30.0
_BACK_OFF = 0.2


class Subscriber:
    """One subscriber.

    Args:
        port: the relay's, or a proxy's in front of it.
        app: signs for private channels where it has a secret.
        channels: what to subscribe to.
        resume: continue after a loss where it stood; otherwise begin anew.
        activity_timeout, pong_timeout: seconds of silence after which the relay is asked whether it is there, and for its
            answer.
        heard: called with every event of a channel, in order.
        placed: called in the same order with each answer that says where a channel stands: a resume that could not be given,
            and the position from which a subscription goes on, behind a state if there is one.

    Attributes:
        views: by channel.
        connections: how often a connection was established.
        refused: channels that were refused, with the reason.
    """

    def __init__(
        self,
        port: Callable[[], int],
        app: App,
        channels: Iterable[str],
        *,
        resume: bool = True,
        activity_timeout: float = 5.0,
        pong_timeout: float = 5.0,
        heard: Callable[[str, Mapping[str, Any]], object] = lambda channel, event: None,
        placed: Callable[[ResumeFailed | PositionReached], object] = lambda answer: None,
    ) -> None:
        self.views = {channel: ChannelView(channel) for channel in channels}
        self.connections = 0
        self.refused: dict[str, str] = {}
        self.notes: Counter[str] = Counter()
        self._port = port
        self._app = app
        self._resume = resume
        self._activity_timeout = activity_timeout
        self._pong_timeout = pong_timeout
        self._heard = heard
        self._placed = placed
        self._news = trio.Event()
        self._mending: set[str] = set()

    async def run(self) -> None:
        """Stay connected until cancelled."""
        while True:
            try:
                await self._connect()
            except* (OSError, HandshakeError, ConnectionClosed, trio.TooSlowError) as lost:
                self.notes[type(lost.exceptions[0]).__name__] += 1
            except* (trio.BrokenResourceError, trio.ClosedResourceError):
                self.notes["broken"] += 1
            self._told()
            await trio.sleep(_BACK_OFF)

    async def until(self, holds: Callable[[], bool], within: float = 120.0) -> None:
        """Wait until ``holds()``, which is asked after everything that comes, ``within`` so many seconds.

        Raises:
            AssertionError: it did not hold in time.
        """
        with trio.move_on_after(within):
            while not holds():
                await self._news.wait()
        assert holds(), f"not within {within:g} s; { ({name: dict(view.kinds) for name, view in self.views.items()}) }"

    def _told(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def _connect(self) -> None:
        machine = ClientConnection(
            self._app.key,
            trio.current_time(),
            activity_timeout=self._activity_timeout,
            pong_timeout=self._pong_timeout,
        )
        async with trio.open_nursery() as nursery:
            with trio.fail_after(_WITHIN):
                url = f"ws://127.0.0.1:{self._port()}{machine.path}"
                socket = await connect_websocket_url(nursery, url, message_queue_size=256)
            try:
                await self._talk(machine, socket)
            finally:
                await trio.aclose_forcefully(socket._stream)
            nursery.cancel_scope.cancel()

    async def _talk(self, machine: ClientConnection, socket: WebSocketConnection) -> None:
        while not machine.closed:
            text: str | bytes | None = None
            with trio.move_on_at(machine.deadline()):
                text = await socket.get_message()
            now = trio.current_time()
            signals = machine.receive(text, now) if isinstance(text, str) else machine.timeout(now)
            for signal in signals:
                await self._take(machine, socket, signal)
            self._told()

    async def _take(self, machine: ClientConnection, socket: WebSocketConnection, signal: object) -> None:
        match signal:
            case SendMessage(text):
                await self._send(socket, text)
            case Established(socket_id):
                self.connections += 1
                self._mending.clear()
                for channel, view in self.views.items():
                    auth = channel_auth(self._app, socket_id, channel) if channel.startswith("private-") else None
                    resume = view.position if self._resume else None
                    await self._send(socket, machine.subscribe(channel, auth, resume=resume, ids=True))
            case Subscribed(channel, _, position):
                view = self.views[channel]
                is_new = channel in self._mending or not self._resume or view.position is None
                self._mending.discard(channel)
                view.joined(position, resumed=not is_new)
                if is_new and position is not None:
                    self._placed(PositionReached(channel, position))
            case ResumeFailed(channel, reason, position) as failed:
                self._placed(failed)
                self.notes[reason] += 1
                self.views[channel].lost += 1
                self.views[channel].joined(position, resumed=False)
            case PositionReached(channel, position) as reached:
                self._placed(reached)
                self.views[channel].position = position
            case Malformed():
                self.notes["damaged" if machine.closed else "not understood"] += 1
            case SubscriptionError(channel, type_, error):
                self.refused[channel] = f"{type_}: {error}"
            case ChannelMessage(str() as channel, _, str() as data) if channel in self.views:
                event: Mapping[str, Any] = msgspec.json.decode(data)
                self.views[channel].take(event)
                self._heard(channel, event)
                if self.views[channel].torn and channel not in self._mending:
                    self._mending.add(channel)
                    self.notes["torn"] += 1
                    await self._send(socket, machine.unsubscribe(channel))
                    await self._send(socket, machine.subscribe(channel, ids=True))

    async def _send(self, socket: WebSocketConnection, text: str) -> None:
        with trio.fail_after(_WITHIN):
            await socket.send_message(text)
