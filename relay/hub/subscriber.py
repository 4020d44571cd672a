"""One subscriber: the protocol's state machine, and what the hub does when it says so.

The edge calls in; everything to the subscriber, its end included, goes through its outbox. When a close has been decided the
subscriber holds nothing any more, however long its socket takes to end.
"""

from collections.abc import Mapping
from math import inf

from relay.hub.app import AppState
from relay.hub.catch_up import control
from relay.hub.outbox import Delivery, Outbox, Policy
from relay.pusher import messages
from relay.pusher.actions import Action, ClientEvent, Close, Ping, Send, SignIn, Subscribe, Unsubscribe
from relay.pusher.apps import App
from relay.pusher.connection import ServerConnection
from relay.pusher.errors import ProtocolError
from relay.websocket.frames import encode_ping

_PING = Delivery(encode_ping(), "", Policy.CONTROL, 0)
_ERROR_TYPES = {401: "AuthError", 403: "LimitReached", 413: "LimitReached"}


class SubscriberSession:
    """One connection to an app. Times are monotonic seconds."""

    __slots__ = ("_app_state", "connection", "outbox")

    def __init__(self, app_state: AppState, connection: ServerConnection, outbox: Outbox) -> None:
        self._app_state = app_state
        self.connection = connection
        self.outbox = outbox
        app_state.sessions[connection.socket_id] = self

    @property
    def socket_id(self) -> str:
        """The connection's name in the protocol."""
        return self.connection.socket_id

    def open(self, query: Mapping[str, str], now: float) -> None:
        """Greet the subscriber, or refuse its version of the protocol. Once, first."""
        self._act(self.connection.open(query), now)

    def receive(self, text: str, now: float) -> None:
        """A text message came."""
        self._act(self.connection.receive(text, now), now)

    def receive_binary(self, now: float) -> None:
        """A binary message came, of which the protocol has none."""
        self._act(self.connection.receive_binary(now), now)

    def alive(self, now: float) -> None:
        """Anything else came."""
        self.connection.alive(now)

    def deadline(self) -> float:
        """When `timeout` is to be called, unless something comes before; infinity for never."""
        return self.connection.deadline()

    def timeout(self, now: float) -> None:
        """The deadline has passed."""
        self._act(self.connection.timeout(now), now)

    def end(self, code: int, reason: str, now: float) -> None:
        """Close the connection: the relay's own wish."""
        self._act(self.connection.close(code, reason), now)

    def closed(self, now: float) -> None:
        """The socket is gone."""
        self._leave(now)
        self._app_state.sessions.pop(self.socket_id, None)

    def live_by(self, app: App) -> None:
        """The app's settings have changed; they count from now on."""
        self.connection.app = app

    def tell(self, text: str) -> None:
        """Send a message of the protocol's own."""
        self.outbox.put(control(text))

    def refuse(self, channel: str, refusal: ProtocolError) -> None:
        """The hub does not let the connection join the channel."""
        self.connection.forget(channel)
        kind = _ERROR_TYPES.get(refusal.status, "InvalidRequest")
        self.tell(messages.subscription_error(channel, kind, refusal.message, refusal.status))

    def _act(self, actions: list[Action], now: float) -> None:
        for action in actions:
            match action:
                case Send(text):
                    self.tell(text)
                case Ping():
                    self.outbox.put(_PING)
                case Subscribe():
                    self._app_state.subscribe(self, action, now)
                case Unsubscribe(channel):
                    self._app_state.unsubscribe(self, channel, now)
                case ClientEvent(channel):
                    self._app_state.client_event(self, action, self.connection.channels.get(channel))
                case SignIn():
                    self._app_state.sign_in(self, action)
                case Close(code, reason):
                    self.outbox.close(code, reason)
                    self._leave(now)

    def _leave(self, now: float) -> None:
        self._act(self.connection.lost(), now)
        self._app_state.sign_out(self)


class RefusedSession:
    """A connection that may not begin: its close is in its outbox, and it hears nothing."""

    __slots__ = ("outbox",)

    def __init__(self, outbox: Outbox, close: Close) -> None:
        self.outbox = outbox
        outbox.close(close.code, close.reason)

    def receive(self, text: str, now: float) -> None:
        """Ignored, as everything that still comes."""

    def receive_binary(self, now: float) -> None:
        """Ignored."""

    def alive(self, now: float) -> None:
        """Ignored."""

    def deadline(self) -> float:
        """Never: the edge bounds how long a close takes."""
        return inf

    def timeout(self, now: float) -> None:
        """Never called."""

    def closed(self, now: float) -> None:
        """Nothing is left behind."""
