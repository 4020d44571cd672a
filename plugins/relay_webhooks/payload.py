"""The body of a webhook (Pusher Channels protocol, webhooks): ``{"time_ms": ..., "events": [{"name": ...}, ...]}``."""

import json
from collections.abc import Iterable

from relay.plugins.hookspecs import ChannelEvent
from relay.pusher.names import channel_type

#: In the order the protocol's documentation shows them; only what an event has is there.
_FIELDS = ("name", "channel", "event", "data", "socket_id", "user_id", "subscription_count")


def encode_event(event: ChannelEvent) -> bytes:
    """Return the event as JSON in ASCII, so that whatever a client put into its data can be sent and signed."""
    present = {name: value for name in _FIELDS if (value := getattr(event, name)) is not None}
    return json.dumps(present, separators=(",", ":")).encode()


def encode_body(time_ms: int, events: Iterable[bytes]) -> bytes:
    """Return the body of encoded events; ``time_ms`` is Unix time."""
    return b'{"time_ms":%d,"events":[%s]}' % (time_ms, b",".join(events))


def kind_of(event: ChannelEvent) -> str:
    """Return the kind by which a queue is shared fairly: the event's name, and who may join its channel.

    Anybody may join a public channel of any name, so its events may not push out those of channels that need a signature.
    """
    return f"{event.name} {channel_type(event.channel).access}"
