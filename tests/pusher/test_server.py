"""The server's half: every verb, every refusal, every clock."""

import json
from math import inf

import pytest

from relay.pusher import (
    ClientEvent,
    CloseConnection,
    JoinChannel,
    LeaveChannel,
    Limits,
    PingPeer,
    PresenceMember,
    PusherCloseCode,
    ResumePosition,
    SendMessage,
    ServerConnection,
    SignIn,
    admit,
    signatures,
)
from tests.pusher.talking import SOCKET_ID, Conversation, make_app, sent

# Beginning -----------------------------------------------------------------------------------------------------------


def test_the_first_message(talk):
    (action,) = talk.opened
    # Byte for byte: pusher-js throws without activity_timeout, and data is encoded twice.
    assert action.text == (
        r'{"event":"pusher:connection_established","data":"{\"socket_id\":\"123.456\",\"activity_timeout\":120}"}'
    )


def test_the_activity_timeout_told_is_whole_and_never_zero():
    assert sent(Conversation(make_app(activity_timeout=1.9)).opened)["data"]["activity_timeout"] == 1


@pytest.mark.parametrize("version", ["4", "5", "6", "7"])
def test_protocols_spoken(app, version):
    assert isinstance(Conversation(app, version).opened[0], SendMessage)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({}, PusherCloseCode.NO_PROTOCOL),
        ({"protocol": ""}, PusherCloseCode.NO_PROTOCOL),
        ({"protocol": "seven"}, PusherCloseCode.INVALID_VERSION),
        ({"protocol": "7.0"}, PusherCloseCode.INVALID_VERSION),
        ({"protocol": "-7"}, PusherCloseCode.INVALID_VERSION),
        ({"protocol": "٧"}, PusherCloseCode.INVALID_VERSION),
        ({"protocol": "7" * 5000}, PusherCloseCode.INVALID_VERSION),
        ({"protocol": "3"}, PusherCloseCode.UNSUPPORTED_PROTOCOL),
        ({"protocol": "8"}, PusherCloseCode.UNSUPPORTED_PROTOCOL),
    ],
)
def test_protocols_refused(app, query, code):
    connection = ServerConnection(app, SOCKET_ID, 0)
    *told, close = connection.open(query)
    assert close == CloseConnection(code, code.meaning)
    assert [sent([error])["data"]["code"] for error in told] == ([4007] if query.get("protocol") == "3" else [])
    assert connection.closed
    assert connection.receive('{"event":"pusher:ping"}', 1) == []


@pytest.mark.parametrize(
    ("changes", "asked", "code"),
    [
        ({}, {}, None),
        ({"enabled": False}, {}, 4003),
        ({"require_tls": True}, {"secure": False}, 4000),
        ({"require_tls": True}, {"secure": True}, None),
        ({"allowed_origins": ("a.example",)}, {"origin": "https://b.example"}, 4009),
        ({"allowed_origins": ("a.example",)}, {"origin": "https://a.example"}, None),
        ({"max_connections": 2}, {"connections": 1}, None),
        ({"max_connections": 2}, {"connections": 2}, 4004),
    ],
)
def test_admission(changes, asked, code):
    close = admit(make_app(**changes), **({"secure": True, "origin": None, "connections": 0} | asked))
    assert (close.code if close else None) == code


def test_an_unknown_app_is_not_admitted():
    assert admit(None, secure=True, origin=None, connections=0).code == 4001


# Subscriptions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("auth", [{}, {"auth": ""}, {"auth": None}])
def test_public_channels_need_nothing(talk, auth):
    assert talk.subscribe("quote.helio.ES", **auth) == [JoinChannel(channel="quote.helio.ES")]
    assert dict(talk.server.channels) == {"quote.helio.ES": None}


@pytest.mark.parametrize(
    "channel", ["private-a", "private-encrypted-a", "private-cache-a", "private-encrypted-cache-a"]
)
def test_private_channels(talk, channel):
    assert talk.subscribe(channel) == [JoinChannel(channel=channel)]


def test_channel_data_counts_on_private_channels_too(talk):
    assert talk.subscribe("private-a", {"user_id": "1"}) == [
        JoinChannel(channel="private-a", member=PresenceMember("1"))
    ]
    assert talk.subscribe("private-b", "not JSON, but signed") == [JoinChannel(channel="private-b")]
    without = signatures.channel_auth(talk.app, SOCKET_ID, "private-c")
    assert sent(talk.subscribe("private-c", {"user_id": "1"}, auth=without))["data"]["status"] == 401


@pytest.mark.parametrize("channel", ["presence-a", "presence-cache-a"])
def test_presence_channels(talk, channel):
    data = '{"user_id":"u1","user_info":{"rate": 1.10,"n":123456789012345678901234567890}}'
    # What the app's server signed about the user is kept digit for digit.
    member = PresenceMember("u1", '{"rate": 1.10,"n":123456789012345678901234567890}')
    assert talk.subscribe(channel, data) == [JoinChannel(channel=channel, member=member)]
    assert talk.server.channels[channel] == member


@pytest.mark.parametrize(
    ("data", "member"),
    [
        ({"user_id": 7}, PresenceMember("7")),
        ({"user_id": "7", "user_info": None}, PresenceMember("7")),
        ({"user_id": "7", "user_info": "Zoë"}, PresenceMember("7", '"Zo\\u00eb"')),
    ],
)
def test_members_as_servers_write_them(talk, data, member):
    assert talk.subscribe("presence-a", data)[0].member == member


def test_data_may_be_a_string_of_json(talk):
    assert talk.say("pusher:subscribe", '{"channel":"a"}') == [JoinChannel(channel="a")]
    assert talk.say("pusher:unsubscribe", '{"channel":"a"}') == [LeaveChannel("a")]


@pytest.mark.parametrize(
    ("channel", "data", "fields", "type", "status", "says"),
    [
        ("a b", None, {}, "InvalidRequest", 400, "may only contain"),
        ("x" * 165, None, {}, "InvalidRequest", 400, "limit channel_name"),
        ("", None, {}, "InvalidRequest", 400, "empty"),
        ("private-a", None, {"auth": None}, "AuthError", 401, "auth is missing"),
        ("private-a", None, {"auth": ""}, "AuthError", 401, "auth is missing"),
        ("private-a", None, {"auth": 7}, "AuthError", 401, "auth is missing"),
        ("private-a", None, {"auth": "278d425bdf160c739803:00"}, "AuthError", 401, "signature"),
        ("private-a", None, {"auth": "nonsense"}, "AuthError", 401, "signature"),
        ("private-encrypted-a", None, {"auth": "x:y"}, "AuthError", 401, "signature"),
        ("presence-a", None, {}, "InvalidRequest", 400, "user_id"),
        ("presence-a", "{", {}, "InvalidRequest", 400, "channel_data is not JSON"),
        ("presence-a", "[]", {}, "InvalidRequest", 400, "channel_data"),
        ("presence-a", {}, {}, "InvalidRequest", 400, "user_id"),
        ("presence-a", {"user_id": ""}, {}, "InvalidRequest", 400, "user id is empty"),
        ("presence-a", {"user_id": None}, {}, "InvalidRequest", 400, "user_id"),
        ("presence-a", {"user_id": True}, {}, "InvalidRequest", 400, "user_id"),
        ("presence-a", {"user_id": 1.5}, {}, "InvalidRequest", 400, "user_id"),
        ("presence-a", {"user_id": "u" * 129}, {}, "InvalidRequest", 400, "limit user_id"),
        ("presence-a", {"user_id": "1", "user_info": "x" * 1023}, {}, "LimitReached", 413, "limit member_size"),
        ("#server-to-user-1", None, {}, "AuthError", 401, "not signed in"),
        ("a", None, {"resume": 5}, "InvalidRequest", 400, "resume must be"),
        ("a", None, {"resume": {"epoch": "e"}}, "InvalidRequest", 400, "resume must be"),
        ("a", None, {"resume": {"epoch": "e", "seq": -1}}, "InvalidRequest", 400, "resume must be"),
        ("a", None, {"resume": {"epoch": "e", "seq": True}}, "InvalidRequest", 400, "resume must be"),
        ("a", None, {"resume": {"epoch": "e" * 65, "seq": 1}}, "InvalidRequest", 400, "resume must be"),
        ("a", None, {"resume": {"epoch": "e", "seq": 1.5}}, "InvalidRequest", 400, "resume must be"),
        ("a", None, {"rewind": 0}, "InvalidRequest", 400, "limit rewind"),
        ("a", None, {"rewind": 1001}, "InvalidRequest", 400, "limit rewind"),
        ("a", None, {"rewind": "1"}, "InvalidRequest", 400, "limit rewind"),
        ("a", None, {"rewind": True}, "InvalidRequest", 400, "limit rewind"),
        ("a", None, {"ids": 1}, "InvalidRequest", 400, "ids must be"),
    ],
)
def test_subscriptions_refused(talk, channel, data, fields, type, status, says):
    message = sent(talk.subscribe(channel, data, **fields))
    assert message["event"] == "pusher:subscription_error"
    assert message["channel"] == channel
    assert (message["data"]["type"], message["data"]["status"]) == (type, status)
    assert says in message["data"]["error"]
    assert not talk.server.channels
    assert not talk.server.closed


def test_channel_data_must_be_the_text_that_was_signed(talk):
    error = talk.say("pusher:subscribe", {"channel": "private-a", "auth": "k:s", "channel_data": {"user_id": "1"}})
    assert "channel_data must be a string" in sent(error)["data"]["error"]


def test_a_signature_of_another_socket_or_app_is_none(talk):
    for auth in (
        signatures.channel_auth(talk.app, "9.9", "private-a"),
        signatures.channel_auth(make_app(key="other"), SOCKET_ID, "private-a"),
        signatures.channel_auth(make_app(secrets=("other",)), SOCKET_ID, "private-a"),
    ):
        assert sent(talk.subscribe("private-a", auth=auth))["data"]["type"] == "AuthError"


def test_resume_rewind_and_ids_are_passed_on(talk):
    (action,) = talk.subscribe("a", resume={"epoch": "e-1", "seq": 0}, rewind=1000, ids=True)
    assert action == JoinChannel(channel="a", resume=ResumePosition("e-1", 0), rewind=1000, ids=True)


def test_twice_and_what_is_not_held(talk):
    talk.subscribe("a")
    error = sent(talk.subscribe("a"))
    assert error == {
        "event": "pusher:error",
        "data": {"message": "Existing subscription to channel a", "code": None},
    }
    assert talk.say("pusher:unsubscribe", {"channel": "a"}) == [LeaveChannel("a")]
    error = sent(talk.say("pusher:unsubscribe", {"channel": "a"}))
    assert error["data"] == {"message": "No current subscription to channel a", "code": None}
    assert talk.subscribe("a") == [JoinChannel(channel="a")]


def test_a_refused_channel_may_be_tried_again(talk):
    talk.subscribe("presence-a", {"user_id": "1"})
    talk.server.forget("presence-a")
    talk.server.forget("presence-a")
    assert talk.subscribe("presence-a", {"user_id": "1"})[0].channel == "presence-a"


def test_the_number_of_channels_is_bounded():
    talk = Conversation(make_app(limits=Limits(subscriptions=3)))
    answers = [talk.subscribe(f"c{n}") for n in range(10)]
    assert [isinstance(actions[0], JoinChannel) for actions in answers] == [True] * 3 + [False] * 7
    assert sent(answers[3])["data"] == {
        "type": "LimitReached",
        "error": "connection holds 3 channels, the most allowed (limit subscriptions)",
        "status": 403,
    }
    talk.say("pusher:unsubscribe", {"channel": "c0"})
    assert isinstance(talk.subscribe("c9")[0], JoinChannel)


def test_a_replaced_app_counts_at_once(talk):
    talk.server.app = make_app(limits=Limits(channel_name=5))
    assert "limit channel_name" in sent(talk.subscribe("123456"))["data"]["error"]


# Signing in ----------------------------------------------------------------------------------------------------------


def test_signing_in(talk):
    send, action = talk.sign_in(id="7", user_info={"name": "Zoë"}, watchlist=["8", 9, "8"])
    message = sent([send])
    assert message["event"] == "pusher:signin_success"
    assert json.loads(message["data"]["user_data"])["id"] == "7"
    assert action == SignIn("7", '{"name": "Zo\\u00eb"}', ("8", "9"))
    assert talk.server.user_id == "7"
    assert talk.subscribe("#server-to-user-7") == [JoinChannel(channel="#server-to-user-7")]
    assert sent(talk.subscribe("#server-to-user-8"))["data"]["status"] == 401


def test_signing_in_again(talk):
    talk.sign_in(id="7")
    assert talk.sign_in(id="7")[-1] == SignIn("7")
    assert "another user" in sent(talk.sign_in(id="8"))["data"]["message"]
    assert talk.server.user_id == "7"


def test_a_watchlist_over_the_limit_is_cut_and_told():
    talk = Conversation(make_app(limits=Limits(watchlist=2)))
    success, error, action = talk.sign_in(id="7", watchlist=["1", "2", "3"])
    assert sent([success])["event"] == "pusher:signin_success"
    assert sent([error])["data"]["code"] == 4302
    assert action.watchlist == ("1", "2")


@pytest.mark.parametrize("auth", ["", "k:s", "278d425bdf160c739803:00"])
def test_a_wrong_signature_is_told_and_the_connection_kept(talk, auth):
    error = sent(talk.say("pusher:signin", {"auth": auth, "user_data": '{"id":"7"}'}))
    assert (error["event"], error["data"]["code"]) == ("pusher:error", None)
    assert "signature" in error["data"]["message"]
    assert talk.server.user_id is None
    assert talk.sign_in(id="7")[-1] == SignIn("7")


def test_a_signed_in_user_joins_a_presence_channel_by_the_signature_alone(talk):
    talk.sign_in(id="7", user_info={"name": "Zoe"})
    (join,) = talk.subscribe("presence-x")
    assert join.member == PresenceMember("7", '{"name": "Zoe"}')
    (join,) = talk.subscribe("presence-y", {"user_id": "8"})
    assert join.member == PresenceMember("8")


def test_a_sign_in_with_too_much_info_for_a_presence_channel():
    talk = Conversation(make_app(limits=Limits(member_size=20)))
    talk.sign_in(id="7", user_info={"name": "Z" * 20})
    assert "limit member_size" in sent(talk.subscribe("presence-x"))["data"]["error"]
    assert sent(talk.subscribe("presence-x"))["data"]["status"] == 413


@pytest.mark.parametrize("user_id", ["auth0|5f2", "user:1", "a+b@x.com"])
def test_a_user_whom_no_event_could_reach_is_refused(talk, user_id):
    error = sent(talk.sign_in(id=user_id))
    assert error["event"] == "pusher:error"
    assert "cannot be reached by events" in error["data"]["message"]
    assert talk.server.user_id is None


@pytest.mark.parametrize(
    ("user", "says"),
    [
        ({}, "id"),
        ({"id": ""}, "user id is empty"),
        ({"id": None}, "id"),
        ({"id": "u" * 129}, "limit user_id"),
        ({"id": "7", "watchlist": "8"}, "watchlist"),
        ({"id": "7", "watchlist": [None]}, "watchlist"),
        ({"id": "7", "x": "x" * 10_240}, "limit user_data_size"),
    ],
)
def test_users_that_cannot_be(talk, user, says):
    error = sent(talk.sign_in(**user))
    assert error["event"] == "pusher:error"
    assert says in error["data"]["message"]
    assert talk.server.user_id is None


# Client events -------------------------------------------------------------------------------------------------------


def test_client_events(talk):
    talk.subscribe("private-a", {"user_id": "1"})
    talk.subscribe("presence-a", {"user_id": "1"})
    talk.subscribe("private-encrypted-a")
    event = "client-moved"
    assert talk.say(event, {"x": 1}, channel="private-a") == [ClientEvent("private-a", event, '{"x": 1}')]
    assert talk.say(event, "text", channel="private-a") == [ClientEvent("private-a", event, "text")]
    assert talk.say(event, channel="private-a") == [ClientEvent("private-a", event, "null")]
    assert talk.say(event, "text", channel="presence-a") == [ClientEvent("presence-a", event, "text", "1")]
    assert talk.say(event, "x", channel="private-encrypted-a") == [ClientEvent("private-encrypted-a", event, "x")]


def test_client_events_keep_every_digit(talk):
    talk.subscribe("private-a")
    text = '{"event":"client-a","channel":"private-a","data":{"price":1.10,"n":123456789012345678901234567890}}'
    assert talk.server.receive(text, talk.now)[0].data == '{"price":1.10,"n":123456789012345678901234567890}'


def test_a_forged_user_id_is_ignored(talk):
    talk.subscribe("presence-a", {"user_id": "1"})
    (event,) = talk.say("client-a", "x", channel="presence-a", user_id="2")
    assert event.user_id == "1"


@pytest.mark.parametrize(
    ("fields", "event", "data", "says"),
    [
        ({"channel": "public"}, "client-a", "x", "only supported on private and presence"),
        ({}, "client-a", "x", "only supported on private and presence"),
        ({"channel": "#server-to-user-1"}, "client-a", "x", "only supported on private and presence"),
        ({"channel": "private-b"}, "client-a", "x", "no current subscription to channel private-b"),
        ({"channel": "private-a"}, "client-" + "a" * 194, "x", "limit event_name"),
        ({"channel": "private-a"}, "client-a", "x" * 10_241, "limit event_payload"),
        ({"channel": "private-a"}, "client-a", "é" * 5_121, "limit event_payload"),
    ],
)
def test_client_events_refused(talk, fields, event, data, says):
    talk.subscribe("private-a")
    talk.subscribe("public")
    error = sent(talk.say(event, data, **fields))
    assert error["event"] == "pusher:error"
    assert error["data"]["code"] is None
    assert says in error["data"]["message"]


def test_client_events_are_off_unless_the_app_says_so():
    talk = Conversation(make_app(client_events=False))
    talk.subscribe("private-a")
    assert "not enabled" in sent(talk.say("client-a", "x", channel="private-a"))["data"]["message"]


def test_client_events_per_second(talk):
    talk.subscribe("private-a")

    def passed(count):
        answers = [talk.say("client-a", "x", channel="private-a") for _ in range(count)]
        refused = [sent(actions)["data"]["code"] for actions in answers if isinstance(actions[0], SendMessage)]
        assert set(refused) <= {4301}
        return count - len(refused)

    assert passed(15) == 10
    talk.now += 0.25
    assert passed(5) == 2
    talk.now += 60  # an idle minute earns no more than a second's worth
    assert passed(30) == 10
    assert not talk.server.closed


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("nonsense", "not JSON"),
        ("null", "not understood"),
        ("[]", "not understood"),
        ("1", "not understood"),
        ('"pusher:ping"', "not understood"),
        ("{}", "event"),
        ('{"event":null}', "event"),
        ('{"event":7}', "event"),
        ('{"event":"client-a","channel":7}', "channel"),
        ('{"event":""}', "not one that clients may send"),
        ('{"event":"quote"}', "not one that clients may send"),
        ('{"event":"pusher:nonsense"}', "not one that clients may send"),
        ('{"event":"pusher:connection_established"}', "not one that clients may send"),
        ('{"event":"pusher_internal:member_added"}', "not one that clients may send"),
        ('{"event":"tickrelay:resume_failed"}', "not one that clients may send"),
        ('{"event":"pusher:subscribe"}', "channel must be a string"),
        ('{"event":"pusher:subscribe","data":""}', "channel must be a string"),
        ('{"event":"pusher:subscribe","data":[]}', "data of pusher:subscribe"),
        ('{"event":"pusher:subscribe","data":"{"}', "data of pusher:subscribe is not JSON"),
        ('{"event":"pusher:subscribe","data":{"channel":7}}', "channel must be a string"),
        ('{"event":"pusher:unsubscribe"}', "channel must be a string"),
        ('{"event":"pusher:unsubscribe","data":7}', "data of pusher:unsubscribe"),
        ('{"event":"pusher:signin"}', "auth and user_data"),
        ('{"event":"pusher:signin","data":{"auth":1,"user_data":{}}}', "auth and user_data"),
        ('{"event":"a","data":"\\ud800"}', "not JSON"),
        ('{"event":"a","data":' + "[" * 20_000 + "]" * 20_000 + "}", "not JSON"),
        ('{"event":"' + "x" * 65_536 + '"}', "limit message_size"),
        ('{"event":"' + "é" * 32_768 + '"}', "limit message_size"),
    ],
)
def test_messages_refused(talk, text, says):
    error = sent(talk.server.receive(text, talk.now))
    assert error["event"] == "pusher:error"
    assert error["data"]["code"] is None
    assert says in error["data"]["message"]
    assert not talk.server.closed
    assert talk.subscribe("a") == [JoinChannel(channel="a")]


def test_binary_is_refused(talk):
    assert "binary" in sent(talk.server.receive_binary(talk.now))["data"]["message"]
    assert not talk.server.closed


def test_a_null_channel_beside_a_subscription_is_harmless(talk):
    assert talk.say("pusher:subscribe", {"channel": "a"}, channel=None) == [JoinChannel(channel="a")]


# Liveness ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [None, {}, "", "anything"])
def test_ping_is_answered(talk, data):
    assert talk.say("pusher:ping", data) == [SendMessage('{"event":"pusher:pong","data":{}}')]
    assert talk.say("pusher:pong", data) == []


def test_an_idle_client_is_pinged_then_closed(talk):
    server = talk.server
    assert server.deadline() == talk.now + 120
    assert server.timeout(talk.now + 119.9) == []
    assert server.timeout(talk.now + 120) == [SendMessage('{"event":"pusher:ping","data":{}}'), PingPeer()]
    assert server.deadline() == talk.now + 150
    assert server.timeout(talk.now + 149.9) == []
    assert server.timeout(talk.now + 150) == [CloseConnection(4201, "Pong reply not received")]
    assert server.deadline() == inf
    assert server.timeout(talk.now + 1000) == []


@pytest.mark.parametrize(
    "sign_of_life",
    [
        lambda server, now: server.receive('{"event":"pusher:pong"}', now),
        lambda server, now: server.receive("nonsense", now),
        lambda server, now: server.receive_binary(now),
        lambda server, now: server.alive(now),
    ],
)
def test_anything_received_is_a_sign_of_life(talk, sign_of_life):
    talk.server.timeout(talk.now + 120)
    sign_of_life(talk.server, talk.now + 149)
    assert talk.server.deadline() == talk.now + 149 + 120


def test_connections_must_be_authorized_where_the_app_says_so():
    app = make_app(authorization_timeout=10)
    idle, public, private, user, refused = (Conversation(app) for _ in range(5))
    public.subscribe("a")
    private.subscribe("private-a")
    user.sign_in(id="7")
    refused.subscribe("private-a", auth="k:s")
    for talk in (idle, public, refused):
        assert talk.server.deadline() == talk.now + 10
        (close,) = talk.server.timeout(talk.now + 10)
        assert close.code == 4009
    for talk in (private, user):
        assert talk.server.timeout(talk.now + 10) == []
        assert talk.server.deadline() == talk.now + 120


def heartbeats(talk, seconds):
    """The client only answers pings; what else happens is returned."""
    until, rest = talk.now + seconds, []
    while talk.server.deadline() <= until:
        talk.now = talk.server.deadline()
        actions = talk.server.timeout(talk.now)
        rest += [action for action in actions if not isinstance(action, SendMessage | PingPeer)]
        if not rest:
            talk.say("pusher:pong")
    return rest


def test_a_connection_that_uses_nothing_is_closed_in_the_end():
    app = make_app(inactivity_timeout=1000)
    assert heartbeats(Conversation(app), 2000) == [CloseConnection(4202, "Closed after inactivity")]


def test_a_client_that_does_something_is_in_use():
    talk = Conversation(make_app(inactivity_timeout=1000))
    assert heartbeats(talk, 900) == []
    talk.subscribe("a")
    talk.say("pusher:unsubscribe", {"channel": "a"})
    assert heartbeats(talk, 900) == []
    assert heartbeats(talk, 200) == [CloseConnection(4202, "Closed after inactivity")]


def test_a_connection_that_only_listens_is_kept():
    app = make_app(inactivity_timeout=1000)
    listening, signed_in = Conversation(app), Conversation(app)
    listening.subscribe("a")
    signed_in.sign_in(id="7")
    assert heartbeats(listening, 5000) == []
    assert heartbeats(signed_in, 5000) == []


def test_protocol_4_knows_no_ping(app):
    talk = Conversation(app, "4")
    talk.subscribe("a")
    assert talk.server.deadline() == talk.now + 86_400
    error, close = talk.server.timeout(talk.now + 86_400)
    assert close == CloseConnection(4202, "Closed after inactivity")
    assert sent([error])["data"]["code"] == 4202


def test_protocol_5_learns_of_a_close_from_an_error_too(app):
    talk = Conversation(app, "5")
    error, close = talk.server.close(PusherCloseCode.RECONNECT)
    assert sent([error])["data"] == {"message": "Generic reconnect immediately", "code": 4200}
    assert close.code == 4200


@pytest.mark.parametrize("protocol", ["6", "7"])
def test_later_protocols_learn_of_it_from_the_close_alone(app, protocol):
    assert Conversation(app, protocol).server.close(PusherCloseCode.RECONNECT) == [
        CloseConnection(4200, "Generic reconnect immediately")
    ]


# Ending --------------------------------------------------------------------------------------------------------------


def test_the_relays_own_close(talk):
    assert talk.server.close(PusherCloseCode.OVER_CAPACITY, "too slow") == [CloseConnection(4100, "too slow")]
    assert talk.server.close(PusherCloseCode.RECONNECT) == []
    assert talk.say("pusher:ping") == []
    assert talk.server.receive_binary(talk.now) == []


def test_a_lost_connection_gives_everything_back_once(talk):
    talk.subscribe("a")
    talk.subscribe("presence-a", {"user_id": "1"})
    talk.sign_in(id="1")
    assert talk.server.lost() == [LeaveChannel("a"), LeaveChannel("presence-a")]
    assert talk.server.lost() == []
    assert not talk.server.channels
    assert talk.server.user_id is None
    assert talk.server.closed
    assert talk.subscribe("b") == []


def test_channels_are_given_back_after_a_close_too(talk):
    talk.subscribe("a")
    talk.server.close(PusherCloseCode.RECONNECT)
    assert talk.server.lost() == [LeaveChannel("a")]


def test_close_reasons_fit_into_a_close_frame():
    assert all(len(code.meaning.encode()) <= 123 for code in PusherCloseCode)
    assert sorted(PusherCloseCode) == [
        *range(4000, 4002), *range(4003, 4010), 4100, *range(4200, 4203), *range(4301, 4305),
    ]  # fmt: skip
