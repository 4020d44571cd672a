"""Shuriken's streams, https://docs.shuriken.trade/api-reference/websocket/overview.

Nothing has an address of its own: a POST to the bootstrap answers where the Pusher server is, and on which channel each
stream travels. A stream that is wanted later needs another bootstrap, of everything wanted, before its channel can be
joined, and a presence channel an authorization for this very connection besides.

The Pusher protocol is read and written by `relay.pusher`; time is the session's.
"""

from collections.abc import Hashable, Iterable
from typing import Any

from relay import pusher
from relay.adapter import (
    Adapter,
    Alive,
    Answer,
    Backoff,
    CloseMeaning,
    Context,
    Fetch,
    Header,
    Heartbeat,
    Offer,
    Option,
    Outgoing,
    Ping,
    Ready,
    Redial,
    Send,
    Session,
    Signal,
    Subscribe,
    Unknown,
    Unsubscribe,
    loads,
)
from relay.model.channels import Topic
from relay.model.events import Error, Event, Notification
from relay.pusher import client
from relay.pusher.names import is_client_event, is_reserved_event
from relay_shuriken.channels import Authorize, Channels, Resolve
from relay_shuriken.payloads import native_symbol, own, public
from relay_shuriken.streams import ACCOUNT, PROBE, Want, wants

#: Pusher Channels protocol, connection closure: after 4000 to 4099 the same connection would be refused again.
CLOSES = {code: CloseMeaning.REFUSED if code < 4100 else CloseMeaning.RETRY for code in range(4000, 4300)}
SOL = {"symbol": "So11111111111111111111111111111111111111112"}


class Shuriken(Adapter):
    name = "shuriken"
    credentials = ("key",)
    options = (
        Option("profiles", about="ids of the profiles whose signal feeds belong to the account, comma-separated"),
        Option("feeds", about="ids of the named signal feeds that belong to the account, comma-separated"),
    )
    offers = (
        Offer(kind="public_trade", example=SOL),
        Offer(kind="reference", example=SOL),
        Offer(kind="signal", example={"symbol": "global"}),
        Offer(kind="account", visibility="presence", events=("notification",)),
    )
    session = Session(
        url="{server}/app/{app_key}?protocol=7&client=tickrelay&version=1.0&flash=false",
        http="https://api.shuriken.trade",
        http_auth=Header("authorization", "Bearer {key}"),
        ready="signal",
        heartbeat=Heartbeat(every=25, frame=False),
        silent_after=60,
        ack_within=10,
        topics_per_frame=50,
        closes=CLOSES,
        backoff=Backoff(first=1, factor=2, cap=30, jitter=0.2),  # until the bootstrap recommends waits of its own
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.profiles, self.feeds = (
            [id for each in self.option(name).split(",") if (id := each.strip())] for name in ("profiles", "feeds")
        )
        self.pusher = pusher.ClientConnection("", 0, resumes=False)  # the session keeps the time; nothing is resumed
        self.channels = Channels(self.pusher)

    def prepare(self) -> Iterable[Fetch]:
        yield self.channels.resolve([Want(PROBE)])

    def fetched(self, tag: Hashable, answer: Answer) -> Iterable[Event | Signal]:
        if isinstance(tag, Resolve | Authorize):
            yield from self.channels.answered(tag, answer)

    def encode(self, outgoing: Outgoing) -> Iterable[str | Fetch]:
        match outgoing:
            case Subscribe(topics):
                asked: dict[Want, Topic] = {}
                for topic in topics:
                    native = self.native(topic.symbol or "")
                    asked |= dict.fromkeys(wants(topic, native, self.profiles, self.feeds), topic)
                yield from self.channels.want(asked)
            case Unsubscribe(topics):
                yield from self.channels.leave(topics)
            case Ping():
                yield self.pusher.ping()

    def decode(self, message: str) -> Iterable[Event | Signal]:
        for heard in self.pusher.receive(message, 0):
            match heard:
                case client.ChannelMessage(str() as channel, event, str() as text) if self.is_stream(channel, event):
                    yield self.event(self.channels.streams[channel].stream, loads(text))
                case client.Established():
                    yield Ready()
                case client.Subscribed(channel):
                    yield from self.channels.joined(channel)
                case client.SubscriptionError(channel, kind, error, status):
                    yield from self.channels.refused(channel, f"{kind}: {error} ({status})")
                case client.MemberAdded(channel, member):
                    info = None if member.user_info is None else loads(member.user_info)
                    yield self.presence(channel, "member_added", {"user_id": member.user_id, "user_info": info})
                case client.MemberRemoved(channel, user_id):
                    yield self.presence(channel, "member_removed", {"user_id": user_id})
                case client.PusherError(text, code):
                    yield Error(code="pusher" if code is None else str(code), message=text)
                    if code in CLOSES:
                        yield Redial(f"{code}: {text}", CLOSES[code])
                case pusher.SendMessage(text):
                    yield Send(text)
                case client.Pong() | client.SubscriptionCount() | client.CacheMiss():
                    yield Alive()
                case client.Malformed(reason=reason):
                    yield Unknown(message, reason)
                case _:
                    yield Unknown(message)

    def is_stream(self, channel: str, event: str) -> bool:
        """Return True if a message is Shuriken's own, not one that members of a channel send each other."""
        return channel in self.channels.streams and not is_client_event(event) and not is_reserved_event(event)

    def event(self, stream: str, data: Any) -> Event:
        if stream in ACCOUNT:
            return own(stream, data)
        native = native_symbol(stream, data)
        native = self.channels.spelled.get(native.lower(), native)
        return public(stream, data, self.symbol(native), native)

    def presence(self, channel: str, what: str, data: dict[str, Any]) -> Notification:
        return Notification(title=self.channels.streams[channel].stream, message=what, data=data)
