"""Encoding of events for subscribers, once per event, and the policy of each event for slow subscribers.

`PublishedEvent` is a canonical event before it is published on its topics. `HistoryEntry` is an event of one topic, with its
sequence number.

A delivered message is `{"event":"quote","channel":"quote.x.EURUSD","data":"{\\"type\\":\\"quote\\",...,\\"seq\\":7}"}`.
It is put together from three parts: the head is the event's name, the middle belongs to the channel and is made once per
channel, the tail is the data with its sequence number and is made once per event and topic. The data inside is encoded
and escaped once per event, however many topics it goes to: only the number behind it differs.
"""

from functools import lru_cache

import msgspec

from relay.hub.outbox import Policy
from relay.model.enums import AccountEvent
from relay.model.events import Account, Candle, Event, Position, Reference, Staleness, Stamp
from relay.model.serialize import encode
from relay.websocket.frames import encode_text

_dumps = msgspec.json.Encoder().encode
_loads = msgspec.json.Decoder().decode

_POLICIES = {
    "quote": Policy.CONFLATE,  # `PublishedEvent.entry` knows it without looking here
    "candle": Policy.CONFLATE,
    "account": Policy.CONFLATE,
    "reference": Policy.CONFLATE,
    "instrument": Policy.CONFLATE,
    "public_trade": Policy.GAP,
    "signal": Policy.GAP,
    "notification": Policy.GAP,
    "alert": Policy.GAP,
    "depth": Policy.SNAPSHOT,
}
_MARGIN = (AccountEvent.MARGIN_WARNING, AccountEvent.MARGIN_CALL, AccountEvent.MARGIN_CALL_ENDED)


def encode_head(name: str) -> bytes:
    """Return the first part of each message of the event `name`."""
    return b'{"event":' + _dumps(name)


def encode_middle(channel: str) -> bytes:
    """Return the second part, which all messages on `channel` share."""
    return b',"channel":' + _dumps(channel)


def encode_event(data: bytes) -> bytes:
    """Return the escaped data of a canonical event, without the sequence number and end that `numbered_tail` adds."""
    text = data[:-1].decode()
    return b',"data":' + _dumps(text)[:-1]


def numbered_tail(encoded: bytes, seq: int) -> bytes:
    """Return the last part of a message: a canonical event with its sequence number in a topic."""
    return b'%b,\\"seq\\":%d}"}' % (encoded, seq)


def plain_tail(data: str, user_id: str | None = None) -> bytes:
    """Return the tail of an application's event, whose data are any text; `user_id` names the member who sent it."""
    sender = b"" if user_id is None else b',"user_id":' + _dumps(user_id)
    return b',"data":' + _dumps(data) + sender + b"}"


def with_position(tail: bytes, id: str, seq: int) -> bytes:
    """Return an application's tail with the event's id and number next to the data, which do not contain them."""
    return b'%b,"id":%b,"seq":%d}' % (tail[:-1], _dumps(id), seq)


def frame(head: bytes, middle: bytes, tail: bytes) -> bytes:
    """Return the three parts as one WebSocket frame."""
    return encode_text(head + middle + tail)


def decode_data(tail: bytes) -> str:
    """Return the data of a tail as text."""
    data: str = _loads(b"{" + tail[1:])["data"]
    return data


def decode_name(head: bytes) -> str:
    """Return the event name of a head."""
    name: str = _loads(head + b"}")["event"]
    return name


_head = lru_cache(maxsize=256)(encode_head)
_RECEIVED_AT = b'\\"received_at\\":\\"'


def received_at(tail: bytes) -> str:
    """Return the `received_at` of a canonical event's tail."""
    start = tail.rfind(_RECEIVED_AT) + len(_RECEIVED_AT)
    return tail[start : tail.index(b"\\", start)].decode()


def policy_of(event: Event, topic: str, *, revalued: bool = False) -> Policy:
    """Return the policy of an event for slow subscribers, on a topic of this kind.

    A margin call is never dropped, nor is a change of a position, except of its price and profit (``revalued``). On a data
    channel only the newest staleness event matters, on the status channel all of them.
    """
    if isinstance(event, Account) and event.event in _MARGIN:
        return Policy.NEVER_DROP
    if revalued or (event.kind == "staleness" and topic != "status"):
        return Policy.CONFLATE
    return _POLICIES.get(event.kind, Policy.NEVER_DROP)


def conflation_key(event: Event) -> str:
    """Return the key under which events of a channel replace each other, for instance one key per position or candle."""
    match event:
        case Staleness():
            return "staleness of the data"
        case Position():
            return f"position {event.id}"
        case Candle():
            return event.start
        case Reference():
            return event.name
        case Account():
            return event.event or ""
    return ""


class HistoryEntry(msgspec.Struct, array_like=True, gc=False, eq=False):
    """One encoded event of one topic. The store packs its members in this order, see `relay.store.interface.LoggedEvent`."""

    seq: int
    id: str
    at: float
    """Time of publication, monotonic seconds."""
    head: bytes
    tail: bytes
    policy: Policy
    conflation_key: str = ""
    """Key of the waiting events that it replaces for a slow subscriber (see Delivery.conflation_key)."""


class PublishedEvent:
    """An event that is being published on its topics. It is encoded once, when the first topic needs it."""

    __slots__ = ("_data", "_encoded", "event", "id", "kind", "stamp")

    def __init__(self, event: Event, stamp: Stamp, id: str) -> None:
        self.event, self.stamp, self.id = event, stamp, id
        self.kind = event.kind
        self._data = self._encoded = b""

    @property
    def data(self) -> bytes:
        """The event as canonical JSON, without a sequence number."""
        if not self._data:
            self._data = encode(self.event, self.stamp, self.id)
        return self._data

    def entry(self, seq: int, now: float, topic: str, *, merged: bool = False, revalued: bool = False) -> HistoryEntry:
        """Return the event as number `seq` of a topic of this kind; `revalued` as for `policy_of`.

        In a merged topic only events of one provider replace each other.
        """
        if not self._encoded:
            self._encoded = encode_event(self.data)
        kind = self.kind
        if kind == "quote":  # by far the most frequent kind, and it needs no lookups
            policy, key = Policy.CONFLATE, ""
        else:
            policy, key = policy_of(self.event, topic, revalued=revalued), conflation_key(self.event)
        if merged:
            key = f"{self.stamp.provider} {key}"
        return HistoryEntry(seq, self.id, now, _head(kind), numbered_tail(self._encoded, seq), policy, key)
