"""A subscriber for tests and soaks: the relay's own client half on a trio-websocket, which comes back by itself.

It connects, subscribes, folds every channel into a `View`, and after any loss connects again as a good client does:
backing off where the close code asks for it, resuming where it stood. A book that lost a delta on the way is asked for anew.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
import trio
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection, connect_websocket_url

from relay.pusher.actions import Send
from relay.pusher.apps import App
from relay.pusher.client import ClientConnection
from relay.pusher.signals import Established, Message, ResumeFailed, Subscribed, SubscriptionError
from relay.pusher.signatures import channel_auth
from relay.testing.view import View

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
    ) -> None:
        self.views = {channel: View(channel) for channel in channels}
        self.connections = 0
        self.refused: dict[str, str] = {}
        self.notes: Counter[str] = Counter()
        self._port = port
        self._app = app
        self._resume = resume
        self._activity_timeout = activity_timeout
        self._pong_timeout = pong_timeout
        self._heard = heard
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

    async def until(self, holds: Callable[[], bool], within: float = _WITHIN) -> None:
        """Wait until ``holds()``, which is asked after everything that comes.

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
            case Send(text):
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
            case ResumeFailed(channel, reason, position):
                self.notes[reason] += 1
                self.views[channel].lost += 1
                self.views[channel].joined(position, resumed=False)
            case SubscriptionError(channel, type_, error):
                self.refused[channel] = f"{type_}: {error}"
            case Message(str(channel), _, str(data)) if channel in self.views:
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
