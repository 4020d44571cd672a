"""Both halves joined: what one builds, the other understands as the same thing. Every message goes through."""

import json

import pytest

from relay.pusher import (
    ClientConnection,
    ClientEvent,
    JoinChannel,
    LeaveChannel,
    Limits,
    PingPeer,
    PresenceMember,
    ResumePosition,
    SendMessage,
    ServerConnection,
    SignIn,
    messages,
    signatures,
)
from relay.pusher.client import (
    CacheMiss,
    ChannelMessage,
    Established,
    MemberAdded,
    MemberRemoved,
    Pong,
    PositionReached,
    PusherError,
    ResumeFailed,
    ResumeSucceeded,
    SignedIn,
    Subscribed,
    SubscriptionCount,
    SubscriptionError,
    WatchlistEvents,
)
from tests.pusher.talking import make_app

ZOE = PresenceMember("1", '{"name":"Zoë \\"Z\\" ☂","rate":1.10}')
NOBODY = PresenceMember("2")
POSITION = ResumePosition("e-1", 7)


class Pair:
    """A client and a server with nothing between them; the server's hub is the test."""

    def __init__(self, app) -> None:
        self.app = app
        self.now = 1000.0
        self.client = ClientConnection(app.key, self.now)
        self.server = ServerConnection(app, "123.456", self.now)
        self.established = self.to_client(self.server.open({"protocol": "7"}))

    def to_client(self, actions):
        """Return the client's signals of the messages; any other action is passed on."""
        heard = []
        for action in actions:
            heard += self.client.receive(action.text, self.now) if isinstance(action, SendMessage) else [action]
        return heard

    def to_server(self, text):
        """Return the server's actions for a client's message, its answers as the client understands them."""
        return self.to_client(self.server.receive(text, self.now))


@pytest.fixture
def pair(app):
    return Pair(app)


def test_established(pair):
    assert pair.established == [Established("123.456", 120)]
    assert pair.client.socket_id == "123.456"


@pytest.mark.parametrize(
    ("text", "signal"),
    [
        (messages.event("a", "quote", '{"bid":"1.10"}'), ChannelMessage("a", "quote", '{"bid":"1.10"}')),
        (messages.event("a", "e", ""), ChannelMessage("a", "e", "")),
        (messages.event("a", "e", 'plain "text" ☂ \\ \n'), ChannelMessage("a", "e", 'plain "text" ☂ \\ \n')),
        (
            messages.event("presence-a", "client-e", "x", user_id="1"),
            ChannelMessage("presence-a", "client-e", "x", "1"),
        ),
        (messages.event("a", "e", "x", id="i", seq=0), ChannelMessage("a", "e", "x", id="i", seq=0)),
        (messages.error("no"), PusherError("no", None)),
        (messages.error("slow down", 4301), PusherError("slow down", 4301)),
        (messages.pong(), Pong()),
        (messages.ping(), SendMessage(messages.pong())),
        (messages.subscription_succeeded("a"), Subscribed("a")),
        (messages.subscription_succeeded("a", position=POSITION), Subscribed("a", position=POSITION)),
        (
            messages.subscription_succeeded("presence-a", members=[ZOE, NOBODY], position=POSITION),
            Subscribed("presence-a", (ZOE, NOBODY), POSITION),
        ),
        (messages.subscription_succeeded("presence-a", members=[]), Subscribed("presence-a")),
        (
            messages.subscription_error("presence-a", "LimitReached", "full", 403),
            SubscriptionError("presence-a", "LimitReached", "full", 403),
        ),
        (messages.subscription_count("a", 3), SubscriptionCount("a", 3)),
        (messages.member_added("presence-a", ZOE), MemberAdded("presence-a", ZOE)),
        (messages.member_added("presence-a", NOBODY), MemberAdded("presence-a", NOBODY)),
        (messages.member_removed("presence-a", "1"), MemberRemoved("presence-a", "1")),
        (messages.cache_miss("cache-a"), CacheMiss("cache-a")),
        (messages.signin_success('{"id":"1"}'), SignedIn('{"id":"1"}')),
        (messages.watchlist_events([("online", ["1", "2"])]), WatchlistEvents("online", ("1", "2"))),
        (messages.watchlist_events([("offline", [])]), WatchlistEvents("offline", ())),
        (messages.resume_succeeded("a", POSITION, 3), ResumeSucceeded("a", POSITION, 3)),
        (
            messages.resume_failed("a", "position_expired", POSITION),
            ResumeFailed("a", "position_expired", POSITION),
        ),
        (messages.position("a", POSITION), PositionReached("a", POSITION)),
        (messages.resume_failed("a", "history_disabled", None), ResumeFailed("a", "history_disabled", None)),
    ],
)
def test_what_the_relay_says(pair, text, signal):
    assert pair.client.receive(text, pair.now) == [signal]


def test_several_watchlist_events_in_one_message(pair):
    text = messages.watchlist_events([("online", ["1"]), ("offline", ["2"])])
    assert pair.client.receive(text, pair.now) == [
        WatchlistEvents("online", ("1",)),
        WatchlistEvents("offline", ("2",)),
    ]


def test_subscribing(pair):
    assert pair.to_server(pair.client.subscribe("a")) == [JoinChannel(channel="a")]
    auth = signatures.channel_auth(pair.app, pair.client.socket_id, "presence-a", '{"user_id":"1"}')
    assert pair.to_server(pair.client.subscribe("presence-a", auth, '{"user_id":"1"}')) == [
        JoinChannel(channel="presence-a", member=PresenceMember("1"))
    ]
    assert pair.to_server(pair.client.subscribe("b", resume=POSITION, rewind=5, ids=True)) == [
        JoinChannel(channel="b", resume=POSITION, rewind=5, ids=True)
    ]
    assert pair.to_server(pair.client.unsubscribe("a")) == [LeaveChannel("a")]


def test_refusals_reach_the_client(pair):
    (refused,) = pair.to_server(pair.client.subscribe("private-a", "k:s"))
    assert (refused.channel, refused.type, refused.status) == ("private-a", "AuthError", 401)
    (refused,) = pair.to_server(pair.client.unsubscribe("a"))
    assert refused == PusherError("No current subscription to channel a", None)


def test_signing_in(pair):
    user_data = json.dumps({"id": "1", "watchlist": ["2"]})
    auth = signatures.user_auth(pair.app, pair.client.socket_id, user_data)
    assert pair.to_server(pair.client.sign_in(auth, user_data)) == [SignedIn(user_data), SignIn("1", None, ("2",))]


def test_signing_in_with_too_long_a_watchlist():
    pair = Pair(make_app(limits=Limits(watchlist=1)))
    user_data = json.dumps({"id": "1", "watchlist": ["2", "3"]})
    auth = signatures.user_auth(pair.app, pair.client.socket_id, user_data)
    signed_in, error, action = pair.to_server(pair.client.sign_in(auth, user_data))
    assert (signed_in, error.code, action) == (SignedIn(user_data), 4302, SignIn("1", None, ("2",)))


@pytest.mark.parametrize("data", ["", "text", '{"price":1.10}', '"quoted"', "null"])
def test_a_client_event_arrives_as_it_was_sent(pair, data):
    auth = signatures.channel_auth(pair.app, pair.client.socket_id, "private-a")
    pair.to_server(pair.client.subscribe("private-a", auth))
    (event,) = pair.to_server(pair.client.trigger("private-a", "client-e", data))
    assert event == ClientEvent("private-a", "client-e", data)
    delivered = messages.event(event.channel, event.event, event.data, user_id=event.user_id)
    assert pair.client.receive(delivered, pair.now) == [ChannelMessage("private-a", "client-e", data)]


def test_either_side_pings(pair):
    assert pair.to_server(pair.client.ping()) == [Pong()]
    pair.now += 120
    (ping,) = pair.client.timeout(pair.now)
    assert pair.to_server(ping.text) == [Pong()]
    assert pair.client.deadline() == pair.server.deadline() == pair.now + 120
    pair.now += 120
    asked, of_the_socket = pair.server.timeout(pair.now)
    assert of_the_socket == PingPeer()
    (answer,) = pair.to_client([asked])
    assert pair.server.receive(answer.text, pair.now) == []
    assert pair.server.deadline() == pair.now + 120


def test_every_message_of_the_relay_is_one_line_of_compact_json():
    for text in (
        messages.connection_established("1.2", 30),
        messages.subscription_succeeded("presence-a", members=[ZOE]),
        messages.error("no"),
    ):
        assert "\n" not in text
        assert json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False) == text


def test_errors_reach_the_owner(pair):
    user_data = '{"id":"1"}'
    (error,) = pair.to_server(pair.client.sign_in("k:s", user_data))
    assert error == PusherError("pusher:signin: auth is not this app's signature for this socket and user_data", None)
