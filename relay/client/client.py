"""The client: one connection to a relay, kept up, and the channels on it."""

import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Generic, Self, TypeVar
from urllib.parse import urlsplit

import anyio
from anyio.abc import TaskGroup
from attrs import frozen

from relay.client.api import WITHIN, CommandResult, HttpInterface, RefusedByRelay, RelayUnreachable
from relay.client.feed import Feed, Notice, Update
from relay.client.views import AccountView, OrderBook, View
from relay.client.websocket import CLOSE_WITHIN, ConnectionLost, WebSocket, open_websocket
from relay.model.channels import Stream, Topic, channel_name
from relay.pusher.client import (
    ClientConnection,
    Established,
    Pong,
    PositionReached,
    PusherError,
    Reconnect,
    ResumeFailed,
    ResumeSucceeded,
    Subscribed,
    SubscriptionError,
    reconnect_action,
)
from relay.pusher.messages import CloseConnection, SendMessage

#: Most updates that wait for the reader. Beyond that the client stops reading, and the relay treats it as a slow subscriber.
BUFFER = 1000
#: Seconds until the next attempt to connect: twice the first, doubling up to the second; half of it is random.
_FIRST, _CAP = 0.5, 5.0
#: Seconds after which a connection counts as one that held: the waits begin anew behind it.
_HELD = 5.0
#: Seconds of silence behind which the relay is asked for a sign of life, and seconds that the answer may take.
_SILENCE, _ANSWER = 15, 10


class SubscriptionRefused(Exception):
    """Raised when the relay refuses a channel, at once or later. ``channels`` has the reason of each."""

    def __init__(self, channels: dict[str, str]) -> None:
        super().__init__(
            "; ".join(text if channel in text else f"{channel}: {text}" for channel, text in channels.items())
        )
        self.channels = channels


class ClosedByRelay(Exception):
    """Raised when the relay closed the connection in a way that forbids to come back. ``code`` is the close code."""

    def __init__(self, code: int | None, reason: str) -> None:
        super().__init__(f"the relay closed the connection: {reason} ({code})")
        self.code = code
        self.reason = reason


@frozen
class _Regained:
    """Stands among the updates where everything that was missed in a loss of the connection has been received."""

    channel: str
    loss: int


@frozen
class _ToldAnew:
    """Stands among the updates where the relay could not resume."""

    channel: str


class Updates:
    """The updates of some channels, in the order of arrival: an asynchronous iterator for one reader.

    Attributes:
        channels: their names.
        refused: the channels that were refused, with the reason.
    """

    def __init__(self, channels: Iterable[str], *, partial: bool) -> None:
        self.channels = tuple(dict.fromkeys(channels))
        self.refused: dict[str, str] = {}
        self._partial = partial
        self._pending = set(self.channels)
        self._queue: deque[Update | _Regained | _ToldAnew] = deque()
        self._views: Mapping[str, View] = {}
        self._lost: dict[str, tuple[str, str | None]] = {}
        self._losses = 0
        self._loss_is_news = False
        self._changed = anyio.Event()
        self._failure: Exception | None = None

    @property
    def waiting(self) -> int:
        """Updates that have come and were not taken yet."""
        return len(self._queue)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Update:
        """Wait for the next update.

        Raises:
            SubscriptionRefused: a channel was taken away; of a partial subscription, the last one.
            ClosedByRelay, RefusedByRelay: the connection ended for good.
        """
        while True:
            item = await self._next()
            if isinstance(item, Update):
                return item

    async def _next(self) -> Update | _Regained | _ToldAnew | None:
        """Return the next item of the queue; None, before all of them, where the connection was lost."""
        while not (self._queue or self._loss_is_news):
            self._check()
            await self._changed.wait()
        if self._loss_is_news:
            self._loss_is_news, item = False, None
        else:
            item = self._queue.popleft()
            if len(self._queue) < BUFFER:
                self._wake()
        await anyio.lowlevel.checkpoint()
        return item

    def _lose(self, channels: Iterable[str], reason: str, since: str | None) -> None:
        """Mark the views of channels as stale at once, whatever waits to be read."""
        self._losses += 1
        for channel in channels:
            if channel in self._views:
                self._views[channel].lose(reason, since)
                self._loss_is_news = self._loss_is_news or channel not in self._lost
            self._lost.setdefault(channel, (reason, since))
        self._wake()

    def _regain(self, channel: str) -> None:
        """Say behind everything that waits to be read that the channel is whole again."""
        if self._lost.pop(channel, None) is not None:
            self._mark(_Regained(channel, self._losses))

    def _mark(self, item: _Regained | _ToldAnew) -> None:
        if item.channel in self._views:
            self._queue.append(item)
            self._wake()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self.refused and (not self._partial or len(self.refused) == len(self.channels)):
            raise SubscriptionRefused(dict(self.refused))

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def _settled(self, channel: str, refusal: str | None = None) -> None:
        self._pending.discard(channel)
        if refusal is not None:
            self.refused[channel] = refusal
        self._wake()

    def _fail(self, error: Exception) -> None:
        self._failure = error
        self._wake()

    async def _put(self, update: Update) -> None:
        self._queue.append(update)
        self._wake()
        # While channels are being joined there is no reader yet, and the awaited answers follow after the updates.
        while len(self._queue) > BUFFER and not self._pending:
            await self._changed.wait()

    async def _joined(self) -> None:
        while self._pending and self._failure is None:
            await self._changed.wait()
        if self._failure is not None or (self.refused and not self._partial):
            self._check()


V = TypeVar("V", bound=View)


class ViewUpdates(Generic[V]):
    """The views of some channels. An asynchronous iterator gives out the view that has changed.

    It does so after each update, once when the connection is lost (any of the views), and when it is regained.

    Attributes:
        view: the view; where there are several, the first.
    """

    def __init__(self, updates: Updates, views: Mapping[str, V]) -> None:
        self.view = next(iter(views.values()))
        self._updates = updates
        self._views = updates._views = views
        for channel, loss in updates._lost.items():
            if channel in views:
                views[channel].lose(*loss)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> V:
        """Wait for the next change and return the view with it. Raises as `Updates`."""
        while True:
            item = await self._updates._next()
            if item is None:
                return self.view
            view = self._views[item.channel]
            match item:
                case Update():
                    view.take(item)
                case _ToldAnew():
                    view.forget()
                case _Regained(_, loss) if loss == self._updates._losses:
                    view.found()
                case _:  # lost again meanwhile
                    continue
            return view


class Client:
    """One relay, for the length of an ``async with`` block.

    The connection is opened by the first subscription. If you have several subscriptions, read all of them: unread updates
    of one block the others.

    Args:
        url: the relay, ``http://HOST:PORT`` or ``https://...``.
        api_key: the API key, with its grants. Without one only public channels of ``app_key`` are available.
        app: id or key of the app to connect to; by default that of the API key, otherwise the relay's first.
        app_key: connect to the app of this key without an API key.
        on_notice: called with each `Notice`.
        compression: offer permessage-deflate.
        wait_for_relay: keep trying if the relay cannot be reached at first, instead of raising RelayUnreachable.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:6001",
        *,
        api_key: str | None = None,
        app: str | None = None,
        app_key: str | None = None,
        on_notice: Callable[[Notice], object] = lambda notice: None,
        compression: bool = False,
        wait_for_relay: bool = False,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"not the address of a relay: {url!r}; write http://HOST:PORT or https://HOST")
        self.url = url.rstrip("/")
        self.http = HttpInterface(url, api_key, on_answer=self._reached)
        self.is_connected = False
        """True while the connection is established."""
        self._host = parts.hostname
        self._tls = parts.scheme == "https"
        self._port = parts.port or (443 if self._tls else 80)
        self._app = app
        self._app_key = app_key
        self._on_notice = on_notice
        self._compression = compression
        self._patient = wait_for_relay
        self._feed = Feed()
        self._readers: dict[str, Updates] = {}
        self._machine: ClientConnection | None = None
        self._tasks: TaskGroup | None = None
        self._is_running = False
        self._outgoing: deque[str] = deque()
        self._to_send = anyio.Event()
        self._pings: deque[anyio.Event] = deque()
        self._last_error = ""
        self._answered = anyio.Event()
        self._connected_at = self._heard_at = 0.0

    async def __aenter__(self) -> Self:
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        assert self._tasks is not None
        self._tasks.cancel_scope.cancel()
        try:
            # Raise the block's own exception unchanged: the task group would wrap it in a group.
            await self._tasks.__aexit__(None, None, None)  # noqa: ASYNC102 (the tasks are cancelled)
        finally:
            with anyio.move_on_after(CLOSE_WITHIN, shield=True):
                await self.http.aclose()

    # --- channels ---

    @asynccontextmanager
    async def subscribe(
        self, *channels: str, rewind: int | None = None, partial: bool = False, within: float = WITHIN
    ) -> AsyncIterator[Updates]:
        """Subscribe to channels for the length of the block.

        Args:
            channels: names as in the relay's catalog; ``account.PROVIDER.NAME`` may be given without its prefix.
            rewind: start with so many past events.
            partial: continue without channels that are refused, instead of raising SubscriptionRefused.
            within: seconds until all channels are joined.

        Raises:
            SubscriptionRefused: a channel was refused.
            RelayUnreachable: no relay answers, or not in time.
            RefusedByRelay: the API key or the app is refused.
            ValueError: this client is subscribed to a channel already.
        """
        names = [f"private-{name}" if name.startswith("account.") else name for name in channels]
        for name in names:
            if name in self._feed:
                raise ValueError(f"this client is subscribed to {name} already")
        subscription = Updates(names, partial=partial)
        for name in subscription.channels:
            self._feed.add(name, rewind)
            self._readers[name] = subscription
        try:
            self._start()
            if self.is_connected:
                self._join(subscription.channels)
            with anyio.move_on_after(within) as waiting:
                await subscription._joined()
            if waiting.cancelled_caught:
                reason = self._last_error or f"no answer to a subscription within {within:g} s"
                raise RelayUnreachable(f"cannot reach {self.url}: {reason}; is `tickrelay serve` running?")
            yield subscription
        finally:
            for name in subscription.channels:
                self._leave(name)

    @asynccontextmanager
    async def book(self, channel: str) -> AsyncIterator[ViewUpdates[OrderBook]]:
        """Subscribe to a depth channel and fold its events into a book. Raises as `subscribe`."""
        async with self.subscribe(channel) as updates:
            yield ViewUpdates(updates, {name: OrderBook() for name in updates.channels})

    @asynccontextmanager
    async def account(self, provider: str, name: str) -> AsyncIterator[ViewUpdates[AccountView]]:
        """Subscribe to an account and fold its events into orders, positions, fills and balances. Raises as `subscribe`."""
        channel = channel_name(Stream(provider, Topic(kind="account", account=name)), "private-")
        async with self.subscribe(channel) as updates:
            yield ViewUpdates(updates, {channel: AccountView(provider, name)})

    async def caught_up(self) -> None:
        """Wait until everything that the relay sent to this connection before now has been received.

        A new subscription starts with the current state of an account or book; after this call it has been received. Returns
        at once while there is no connection.
        """
        if self._machine is not None:
            answered = anyio.Event()
            self._pings.append(answered)
            self._send(self._machine.ping())
            await answered.wait()

    # --- requests ---

    async def command(
        self, command: str, *, provider: str, account: str | None = None, **members: Any
    ) -> CommandResult:
        """Send a trading command and wait for its reply; see `HttpInterface.command`."""
        return await self.http.command(command, provider=provider, account=account, **members)

    async def place_order(
        self,
        *,
        provider: str,
        symbol: str,
        side: str,
        quantity: str,
        limit_price: str | None = None,
        stop_price: str | None = None,
        order_type: str | None = None,
        **members: Any,
    ) -> CommandResult:
        """Place an order. The type follows from the prices where none is given. Raises as `command`."""
        kind = order_type or implied_type(limit_price, stop_price)
        order = {"symbol": symbol, "side": side, "quantity": quantity, "order_type": kind}
        prices = {"limit_price": limit_price, "stop_price": stop_price}
        return await self.command("place_order", provider=provider, **order, **prices, **members)

    async def cancel_order(self, *, provider: str, order_id: str, **members: Any) -> CommandResult:
        """Cancel an order. Raises as `command`."""
        return await self.command("cancel_order", provider=provider, order_id=order_id, **members)

    async def symbols(self, query: str = "", **parameters: Any) -> dict[str, Any]:
        """Search symbols: ``GET /api/v2/symbols`` with its parameters. Raises as `HttpInterface.get`."""
        return dict(await self.http.get("/api/v2/symbols", q=query or None, **parameters))

    async def instruments(self, query: str = "", **parameters: Any) -> dict[str, Any]:
        """Search instruments: ``GET /api/v2/instruments`` with its parameters. Raises as `HttpInterface.get`."""
        return dict(await self.http.get("/api/v2/instruments", q=query or None, **parameters))

    async def streams(self) -> list[dict[str, Any]]:
        """Return the catalog: the streams that the API key may read. Raises as `HttpInterface.get`."""
        return list((await self.http.get("/api/v2/ws/streams"))["streams"])

    async def status(self) -> dict[str, Any]:
        """Return the relay's status, as far as the API key may see it. Raises as `HttpInterface.get`."""
        return dict(await self.http.get("/api/v2/status"))

    # --- the connection ---

    def _start(self) -> None:
        if self._tasks is None:
            raise RuntimeError("a Client is to be used in an `async with` block")
        if not self._is_running:
            self._is_running = True
            self._tasks.start_soon(self._run)

    async def _run(self) -> None:
        """Keep the connection up until it is refused for good."""
        failures, established = 0, False
        while True:
            try:
                await self._connect()
                code, reason = None, "the connection was lost"
            except ConnectionLost as lost:
                code, reason = lost.code, lost.reason
            except RelayUnreachable as error:
                code, reason = None, str(error)
            except RefusedByRelay as error:
                if error.status not in (408, 421, 429, 503):
                    return self._give_up(error)
                code, reason = None, error.message
            established = established or self.is_connected
            held = self.is_connected and anyio.current_time() - self._connected_at >= _HELD
            if self.is_connected:
                self._lose(reason)
            self.is_connected, self._machine, self._last_error = False, None, reason
            while self._pings:
                self._pings.popleft().set()
            action = reconnect_action(code)
            if action in (Reconnect.NEVER, Reconnect.OVER_TLS):
                return self._give_up(ClosedByRelay(code, reason))
            if not established and not self._patient:
                text = reason if reason.startswith("cannot reach") else f"cannot reach {self.url}: {reason}"
                return self._give_up(RelayUnreachable(text))
            failures = 1 if held else failures + 1
            most = min(_CAP, _FIRST * 2 ** min(failures, 10))
            wait = 0.0 if action is Reconnect.AT_ONCE and failures == 1 else most * random.uniform(0.5, 1.0)
            self._on_notice(Notice("disconnected", None, f"{reason}; connecting again {_in(wait)}"))
            await self._wait(wait, wakes=code is None)

    async def _wait(self, seconds: float, *, wakes: bool) -> None:
        """Wait for the next attempt to connect; where an answer over HTTP ``wakes``, until there is one.

        A relay that closed the connection with a code asked for the wait. The shortest wait bounds the attempts of a program
        whose requests are answered while its connections fail.
        """
        self._answered = anyio.Event()
        least = min(seconds, _FIRST) if wakes else seconds
        await anyio.sleep(least)
        with anyio.move_on_after(seconds - least):
            await self._answered.wait()

    def _reached(self) -> None:
        self._answered.set()

    def _lose(self, reason: str) -> None:
        silence = anyio.current_time() - self._heard_at
        since = (datetime.now(UTC) - timedelta(seconds=silence)).isoformat(timespec="milliseconds")
        for subscription in set(self._readers.values()):
            text = f"not connected to the relay: {reason}"
            subscription._lose(subscription.channels, text, since.replace("+00:00", "Z"))

    def _give_up(self, error: Exception) -> None:
        self._is_running = False
        for subscription in set(self._readers.values()):
            subscription._fail(error)

    async def _connect(self) -> None:
        """Hold one connection until it ends. Raises ConnectionLost, RelayUnreachable or RefusedByRelay."""
        key = self._app_key
        if key is None:
            wanted = {"subscriptions": [], **({} if self._app is None else {"app": self._app})}
            key = (await self.http.post("/api/v2/ws/session", wanted))["connection"]["appKey"]
        machine = ClientConnection(str(key), anyio.current_time(), activity_timeout=_SILENCE, pong_timeout=_ANSWER)
        async with open_websocket(
            self._host, self._port, machine.path, tls=self._tls, within=WITHIN, compression=self._compression
        ) as socket:
            self._outgoing.clear()
            ended: list[Exception] = []
            async with anyio.create_task_group() as tasks:

                async def until_it_ends(part: Callable[[], Any]) -> None:
                    try:
                        await part()
                    except (ConnectionLost, RelayUnreachable, RefusedByRelay) as error:
                        ended.append(error)
                    tasks.cancel_scope.cancel()

                tasks.start_soon(until_it_ends, lambda: self._write(socket))
                await until_it_ends(lambda: self._read(machine, socket))
            if ended:
                raise ended[0]

    async def _write(self, socket: WebSocket) -> None:
        while True:
            while self._outgoing:
                await socket.send(self._outgoing.popleft())
            self._to_send = anyio.Event()
            await self._to_send.wait()

    def _send(self, text: str) -> None:
        self._outgoing.append(text)
        self._to_send.set()

    async def _read(self, machine: ClientConnection, socket: WebSocket) -> None:
        said: PusherError | None = None
        while True:
            texts: list[str] = []
            with anyio.move_on_after(max(0.0, machine.deadline() - anyio.current_time())):
                try:
                    texts = await socket.receive()
                    self._heard_at = anyio.current_time()
                    machine.alive(self._heard_at)
                except ConnectionLost as lost:
                    if said is not None and lost.code is not None:
                        raise ConnectionLost(lost.code, said.message) from None
                    raise
            await socket.answer_pings()
            now = anyio.current_time()
            signals = [signal for text in texts for signal in machine.receive(text, now)] or machine.timeout(now)
            for signal in signals:
                match signal:
                    case SendMessage(text):
                        self._send(text)
                    case CloseConnection(_, reason):
                        raise ConnectionLost(None, reason)
                    case Established():
                        self._machine, self.is_connected, self._connected_at = machine, True, now
                        self._on_notice(Notice("connected", None, self.url))
                        self._join(self._feed)
                    case PusherError():
                        said = signal
                    case Pong() if self._pings:
                        self._pings.popleft().set()
                    case SubscriptionError(channel, _, error):
                        self._refused(channel, error)
                    case _:
                        await self._deliver(signal)

    async def _deliver(self, signal: Any) -> None:
        item = self._feed.take(signal)
        if isinstance(item, Update):
            reader = self._readers.get(item.channel)
            if reader is not None:
                await reader._put(item)
        elif isinstance(item, Notice):
            if item.what == "subscribed" and item.channel in self._readers:
                self._readers[item.channel]._settled(item.channel)
            self._on_notice(item)
        self._regain(signal)

    def _regain(self, signal: Any) -> None:
        """Tell the views where a channel stands after a loss of the connection."""
        channel = getattr(signal, "channel", None)
        reader = self._readers.get(channel or "")
        if reader is None or channel not in reader._lost:
            return
        match signal:
            case Subscribed() if self._feed.is_resuming(channel):
                return  # whether that succeeded follows
            case Subscribed(_, _, position) | ResumeFailed(_, _, position):
                reader._mark(_ToldAnew(channel))
                if position is not None:
                    reader._regain(channel)
                elif self._tasks is not None:  # the position follows the state; without a history there is none
                    self._tasks.start_soon(self._regain_behind_state, reader, channel)
            case ResumeSucceeded() | PositionReached():
                reader._regain(channel)

    async def _regain_behind_state(self, reader: Updates, channel: str) -> None:
        machine = self._machine
        await self.caught_up()
        if machine is self._machine:
            reader._regain(channel)

    def _refused(self, channel: str, reason: str) -> None:
        if channel in self._readers:
            self._on_notice(Notice("refused", channel, reason))
            reader = self._readers[channel]
            self._feed.remove(channel)
            reader._lose([channel], f"refused by the relay: {reason}", None)
            reader._settled(channel, reason)

    def _join(self, channels: Iterable[str]) -> None:
        machine = self._machine
        assert machine is not None
        authorized = []
        for channel in channels:
            if channel.startswith(("private-", "presence-")):
                authorized.append(channel)
            elif channel in self._feed:
                self._send(self._feed.subscribe(machine, channel, None, None))
        if authorized and self._tasks is not None:
            self._tasks.start_soon(self._authorize, machine, authorized)

    async def _authorize(self, machine: ClientConnection, channels: list[str]) -> None:
        """Subscribe to channels that need the relay's signature, while this connection lasts."""
        for channel in channels:
            fields = {"socket_id": machine.socket_id or "", "channel_name": channel}
            if self._app is not None:
                fields["app"] = self._app
            try:
                signed = await self.http.post_form("/api/v2/ws/auth", fields)
            except RefusedByRelay as error:
                self._refused(channel, error.message)
                continue
            except RelayUnreachable as error:
                if machine is self._machine:  # otherwise the next connection subscribes again
                    self._last_error = str(error)
                return
            if machine is self._machine and channel in self._feed:
                auth, member = str(signed["auth"]), signed.get("channel_data")
                self._send(self._feed.subscribe(machine, channel, auth, member))

    def _leave(self, channel: str) -> None:
        if channel in self._feed and self._machine is not None:
            self._send(self._machine.unsubscribe(channel))
        self._feed.remove(channel)
        self._readers.pop(channel, None)


def _in(seconds: float) -> str:
    return f"in {seconds:.1f} s" if seconds else "at once"


def implied_type(limit_price: str | None, stop_price: str | None) -> str:
    """Return the type of an order that its prices imply."""
    return {
        (False, False): "MARKET",
        (True, False): "LIMIT",
        (False, True): "STOP",
        (True, True): "STOP_LIMIT",
    }[limit_price is not None, stop_price is not None]
