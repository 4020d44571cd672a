"""From an event to the bytes of a frame, each step as rarely as it can be.

A delivered message is `{"event":"quote","channel":"quote.x.EURUSD","data":"{\\"type\\":\\"quote\\",...,\\"seq\\":7}"}`.
It is put together from three parts: the head is the event's name, the middle belongs to the channel and is made once per
channel, the tail is the data with its sequence number and is made once per event and topic. The data inside is encoded
and escaped once per event, however many topics it goes to: only the number behind it differs.
"""

import msgspec

from relay.model.codec import encode
from relay.model.events import Event, Stamp
from relay.websocket.frames import encode_text

_dumps = msgspec.json.Encoder().encode
_loads = msgspec.json.Decoder().decode


def head(name: str) -> bytes:
    """The beginning of every message that brings the event `name`."""
    return b'{"event":' + _dumps(name)


def middle(channel: str) -> bytes:
    """What every message on `channel` has behind its head."""
    return b',"channel":' + _dumps(channel)


def canonical_body(event: Event, stamp: Stamp, id: str) -> bytes:
    """The data of a canonical event, escaped, open at the end for `numbered`."""
    text = encode(event, stamp, id)[:-1].decode()
    return b',"data":' + _dumps(text)[:-1]


def numbered(body: bytes, seq: int) -> bytes:
    """The tail of a canonical event as number `seq` of a topic."""
    return b'%b,\\"seq\\":%d}"}' % (body, seq)


def plain_tail(data: str, user_id: str | None = None) -> bytes:
    """The tail of an application's event, whose data are any text; `user_id` names the member who sent it."""
    sender = b"" if user_id is None else b',"user_id":' + _dumps(user_id)
    return b',"data":' + _dumps(data) + sender + b"}"


def with_position(tail: bytes, id: str, seq: int) -> bytes:
    """The tail with the event's id and number beside the data, for those who asked and whose data have none inside."""
    return b'%b,"id":%b,"seq":%d}' % (tail[:-1], _dumps(id), seq)


def frame(head: bytes, middle: bytes, tail: bytes) -> bytes:
    """One WebSocket frame."""
    return encode_text(head + middle + tail)


def data_of(tail: bytes) -> str:
    """The text of the data in a tail."""
    data: str = _loads(b"{" + tail[1:])["data"]
    return data


def name_of(head: bytes) -> str:
    """The event's name in a head."""
    name: str = _loads(head + b"}")["event"]
    return name
