"""Encoding of events into frames, each step as rarely as possible.

A delivered message is `{"event":"quote","channel":"quote.x.EURUSD","data":"{\\"type\\":\\"quote\\",...,\\"seq\\":7}"}`.
It is put together from three parts: the head is the event's name, the middle belongs to the channel and is made once per
channel, the tail is the data with its sequence number and is made once per event and topic. The data inside is encoded
and escaped once per event, however many topics it goes to: only the number behind it differs.
"""

import msgspec

from relay.websocket.frames import encode_text

_dumps = msgspec.json.Encoder().encode
_loads = msgspec.json.Decoder().decode


def encode_head(name: str) -> bytes:
    """Return the beginning of every message of the event `name`."""
    return b'{"event":' + _dumps(name)


def encode_middle(channel: str) -> bytes:
    """Return the part behind the head that all messages on `channel` share."""
    return b',"channel":' + _dumps(channel)


def encode_event(data: bytes) -> bytes:
    """Return the data of a canonical event, escaped, without the end that `numbered_tail` adds."""
    text = data[:-1].decode()
    return b',"data":' + _dumps(text)[:-1]


def numbered_tail(encoded: bytes, seq: int) -> bytes:
    """Return the tail of a canonical event as number `seq` of a topic."""
    return b'%b,\\"seq\\":%d}"}' % (encoded, seq)


def plain_tail(data: str, user_id: str | None = None) -> bytes:
    """Return the tail of an application's event, whose data are any text; `user_id` names the member who sent it."""
    sender = b"" if user_id is None else b',"user_id":' + _dumps(user_id)
    return b',"data":' + _dumps(data) + sender + b"}"


def with_position(tail: bytes, id: str, seq: int) -> bytes:
    """Return the tail with the event's id and number beside the data, for an application's data, which have neither."""
    return b'%b,"id":%b,"seq":%d}' % (tail[:-1], _dumps(id), seq)


def frame(head: bytes, middle: bytes, tail: bytes) -> bytes:
    """Return the three parts as one WebSocket frame."""
    return encode_text(head + middle + tail)


def decode_data(tail: bytes) -> str:
    """Return the text of the data in a tail."""
    data: str = _loads(b"{" + tail[1:])["data"]
    return data


def decode_name(head: bytes) -> str:
    """Return the event's name in a head."""
    name: str = _loads(head + b"}")["event"]
    return name
