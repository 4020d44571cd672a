"""Reading: a message's text is kept, digit for digit, whatever shape its data has."""

import pytest

from relay.pusher import ProtocolError, messages
from relay.pusher.messages import Frame, read, read_json


@pytest.mark.parametrize(
    ("text", "frame"),
    [
        ('{"event":"e"}', Frame("e", None, None)),
        ('{"event":"e","data":null}', Frame("e", None, None)),
        ('{"event":"e","data":""}', Frame("e", None, "")),
        ('{"event":"e","data":"null"}', Frame("e", None, "null")),
        ('{"event":"e","data":0}', Frame("e", None, "0")),
        ('{"event":"e","data":1.10}', Frame("e", None, "1.10")),
        ('{"event":"e","data":[1e400, -0.0]}', Frame("e", None, "[1e400, -0.0]")),
        (r'{"event":"e","data":"\u2602 \ud83d\ude00"}', Frame("e", None, "☂ 😀")),
        (' {"data" : { "x" : 1 } , "channel":"a","event":"e","more":[{}]} ', Frame("e", "a", '{ "x" : 1 }')),
        ('{"event":"e","event":"f"}', Frame("f", None, None)),
    ],
)
def test_frames(text, frame):
    assert read(text) == frame


def test_fractions_in_objects_keep_their_digits():
    assert read_json('{"price":1.10,"n":7,"in":[2.50]}', "data") == {"price": "1.10", "n": 7, "in": ["2.50"]}
    assert read_json(None, "data") == read_json("", "data") == {}


@pytest.mark.parametrize(("text", "says"), [("[]", "quote is not understood"), ("{", "quote is not JSON")])
def test_what_is_no_object_is_named(text, says):
    with pytest.raises(ProtocolError, match=says):
        read_json(text, "quote")


def test_events_byte_for_byte():
    assert messages.event("a", "quote", '{"bid":"1.10"}') == (
        r'{"event":"quote","channel":"a","data":"{\"bid\":\"1.10\"}"}'
    )
    assert messages.event("presence-a", "client-e", "x", user_id="1", id="i", seq=7) == (
        '{"event":"client-e","channel":"presence-a","data":"x","user_id":"1","id":"i","seq":7}'
    )
    assert messages.subscription_succeeded("a") == (
        '{"event":"pusher_internal:subscription_succeeded","channel":"a","data":"{}"}'
    )
    assert messages.error("no") == '{"event":"pusher:error","data":{"message":"no","code":null}}'
