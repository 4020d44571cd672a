"""The client's half alone: other servers' habits, clocks, and what to do after a close."""

import json
from math import inf

import pytest

from relay.pusher import (
    ClientConnection,
    CloseConnection,
    PresenceMember,
    Reconnect,
    SendMessage,
    messages,
    reconnect_action,
)
from relay.pusher.client import (
    ChannelMessage,
    Established,
    Malformed,
    MemberAdded,
    MemberRemoved,
    PusherError,
    Subscribed,
)


@pytest.fixture
def client():
    return ClientConnection("key", 0.0)


def hear(client, now=1.0, **message):
    return client.receive(json.dumps(message), now)


def test_the_path():
    client = ClientConnection("key", 0, client="js", version="8.4")
    assert client.path == "/app/key?protocol=7&client=js&version=8.4&flash=false"


@pytest.mark.parametrize("encode", [json.dumps, lambda data: data])
@pytest.mark.parametrize(
    ("offered", "used"),
    [(30, 30), (300, 120), (0, 120), (None, 120), ("soon", 120), (2.5, 2.5), (True, 120), (-1, 120), (10**400, 120)],
)
def test_the_shorter_activity_timeout_counts(client, encode, offered, used):
    data = encode({"socket_id": "1.2", "activity_timeout": offered})
    assert hear(client, event="pusher:connection_established", data=data) == [Established("1.2", used)]
    assert client.deadline() == 1 + used


def test_data_may_come_as_an_object_and_keeps_its_digits(client):
    text = '{"event":"update","channel":"a","data":{"price": 1.10, "list": [1e3]}}'
    assert client.receive(text, 1) == [ChannelMessage("a", "update", '{"price": 1.10, "list": [1e3]}')]


@pytest.mark.parametrize(
    ("message", "signal"),
    [
        ({"event": "pusher_internal:subscription_succeeded", "channel": "a"}, Subscribed("a")),
        ({"event": "pusher_internal:subscription_succeeded", "channel": "a", "data": ""}, Subscribed("a")),
        ({"event": "pusher_internal:subscription_succeeded", "channel": "a", "data": {}}, Subscribed("a")),
        (
            {
                "event": "pusher_internal:subscription_succeeded",
                "channel": "a",
                "data": {"presence": {"ids": [], "hash": [], "count": 0}},
            },
            Subscribed("a"),
        ),
        (
            {"event": "pusher_internal:member_added", "channel": "a", "data": {"user_id": 7, "user_info": [1]}},
            MemberAdded("a", PresenceMember("7", "[1]")),
        ),
        ({"event": "pusher_internal:member_removed", "channel": "a", "data": {"user_id": 7}}, MemberRemoved("a", "7")),
        ({"event": "pusher:error", "data": {"message": "x", "code": "4001"}}, PusherError("x", None)),
        ({"event": "pusher:error", "data": '{"message": "x", "code": 4001}'}, PusherError("x", 4001)),
        ({"event": "sockudo:new", "data": {}}, ChannelMessage(None, "sockudo:new", "{}")),
        ({"event": "e", "channel": "a", "data": "x", "user_id": 7}, ChannelMessage("a", "e", "x", "7")),
        ({"event": "e", "channel": "a", "data": "x", "id": 7, "seq": "8"}, ChannelMessage("a", "e", "x")),
        ({"event": "e", "channel": "a"}, ChannelMessage("a", "e", None)),
    ],
)
def test_habits_of_other_servers(client, message, signal):
    assert hear(client, **message) == [signal]


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        '{"event":7}',
        '{"event":"pusher:connection_established"}',
        '{"event":"pusher:connection_established","data":{"socket_id":true}}',
        '{"event":"pusher:error","data":[]}',
        '{"event":"pusher_internal:subscription_succeeded","data":"{}"}',
        '{"event":"pusher_internal:subscription_succeeded","channel":"a","data":{"presence":7}}',
        '{"event":"pusher_internal:member_added","channel":"a","data":"{}"}',
        '{"event":"pusher_internal:member_removed","channel":"a","data":{"user_id":null}}',
        '{"event":"pusher_internal:subscription_count","channel":"a","data":{"subscription_count":"3"}}',
        '{"event":"pusher_internal:watchlist_events","data":{"events":{}}}',
        '{"event":"pusher_internal:watchlist_events","data":{"events":[{"name":"away","user_ids":[]}]}}',
        '{"event":"pusher:cache_miss"}',
        '{"event":"pusher:signin_success","data":{}}',
        '{"event":"tickrelay:resume_succeeded","channel":"a","data":{}}',
        '{"event":"tickrelay:resume_failed","channel":"a","data":{}}',
        '{"event":"pusher:subscription_error","data":{}}',
    ],
)
def test_what_cannot_be_understood_is_handed_out(client, text):
    (malformed,) = client.receive(text, 1)
    assert isinstance(malformed, Malformed)
    assert malformed.text == text
    assert malformed.reason
    assert client.socket_id is None
    assert not client.closed  # a server may know more of the protocol


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '!"event":"e","channel":"a","data":"{}"}',
        '{"event":"pusher:connection_established","data":"{"}',
        '{"event":"tickrelay:position","channel":"a","data":"!"}',
    ],
)
def test_a_damaged_message_ends_the_connection_so_that_its_event_is_resumed(client, text):
    """The next event's number would hide that one is missing: an order whose end was damaged would stay open for ever."""
    malformed, close = client.receive(text, 1)
    assert malformed == Malformed(text, close.reason)
    assert close.code == 1007
    assert "not JSON" in close.reason
    assert client.closed
    assert client.receive('{"event":"e","channel":"a","data":"{}"}', 2) == []


def test_a_handshake_that_never_comes():
    client = ClientConnection("key", 0, handshake_timeout=5)
    assert client.deadline() == 5
    assert client.timeout(4.9) == []
    (close,) = client.timeout(5)
    assert isinstance(close, CloseConnection)
    assert client.closed
    assert client.deadline() == inf
    assert client.receive(messages.pong(), 6) == []
    assert client.timeout(7) == []


def test_a_silent_server_is_pinged_then_given_up(client):
    client.receive(messages.connection_established("1.2", 20), 10)
    assert client.deadline() == 30
    assert client.timeout(29) == []
    assert client.timeout(30) == [SendMessage(messages.ping())]
    assert client.timeout(59) == []
    (close,) = client.timeout(60)
    assert close.code == 4201
    assert client.closed


@pytest.mark.parametrize("life", [lambda c: c.receive("{}", 50), lambda c: c.alive(50)])
def test_anything_received_is_a_sign_of_life(client, life):
    client.receive(messages.connection_established("1.2", 20), 10)
    client.timeout(30)
    life(client)
    assert client.deadline() == 70


def test_a_client_event_needs_its_prefix(client):
    with pytest.raises(ValueError, match="client-"):
        client.trigger("private-a", "moved", "x")


@pytest.mark.parametrize(
    ("codes", "action"),
    [
        ([None, 1000, 1001, 1002, 1003, 1004, 1006, 1011, 3999], Reconnect.BACK_OFF),
        ([4000], Reconnect.OVER_TLS),
        ([4001, 4003, 4004, 4005, 4006, 4007, 4008, 4009, 4099], Reconnect.NEVER),
        ([4100, 4199], Reconnect.BACK_OFF),
        ([4200, 4201, 4202, 4299], Reconnect.AT_ONCE),
        ([4300, 4301, 4302, 4999], Reconnect.NEVER),
    ],
)
def test_after_a_close(codes, action):
    assert {reconnect_action(code) for code in codes} == {action}
