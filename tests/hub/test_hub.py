"""Connections, apps, interest and refusals; and that nothing is left when everybody has gone."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.hub.hub import UnknownApp
from relay.model.channels import Stream, Topic
from relay.model.events import Depth, Quote, Staleness
from relay.pusher.apps import Limits
from tests.hub.conftest import APP, Client

# Connecting ----------------------------------------------------------------------------------------------------------


def test_a_connection_is_greeted_with_its_socket_id(relay):
    client = relay.hub.connect("key", "protocol=7&client=js&version=8", None, relay.now)
    assert client.socket_id == "7.1"
    assert client.outbox.closing is None
    assert relay.hub.connections == 1


def refusal(relay, key="key", query="protocol=7", origin=None, **more):
    session = relay.hub.connect(key, query, origin, relay.now, **more)
    session.closed(relay.now)
    return None if session.outbox.closing is None else session.outbox.closing[0]


@pytest.mark.parametrize(
    ("settings", "asked", "code"),
    [
        ({}, {}, None),
        ({}, {"key": "other"}, 4001),
        ({"enabled": False}, {}, 4003),
        ({"require_tls": True}, {}, 4000),
        ({"require_tls": True}, {"secure": True}, None),
        ({"allowed_origins": ["*.example.com"]}, {"origin": "https://evil.test"}, 4009),
        ({"allowed_origins": ["*.example.com"]}, {"origin": "https://a.example.com"}, None),
        ({}, {"query": ""}, 4008),
        ({}, {"query": "protocol=x"}, 4006),
        ({}, {"query": "protocol=99"}, 4007),
    ],
)
def test_a_refused_connection_is_closed_with_the_reason(relay_of, app_of, settings, asked, code):
    relay = relay_of(app_of(**settings))
    assert refusal(relay, **asked) == code
    assert relay.hub.connections == 0


@pytest.mark.parametrize("query", ["protocol=5&client=pusher-dot-net-client", "protocol=7", "protocol=x", ""])
@pytest.mark.parametrize("key", ["other", ""])
def test_clients_of_an_old_protocol_are_told_of_a_refusal_by_an_error_first(relay, query, key):
    client = Client(relay, relay.hub.connect(key, query, None, relay.now), APP)
    errors = [message["data"]["code"] for message in client.take()]
    assert client.close_code in (4001, 4005)
    assert errors == ([client.close_code] if "protocol=5" in query else [])


def test_connections_of_an_app_are_limited(relay_of, app_of):
    relay = relay_of(app_of(max_connections=2), app_of(id="2", key="two"))
    clients = [relay.client(), relay.client()]
    assert refusal(relay) == 4004
    assert refusal(relay, "two") is None
    clients[0].gone()
    assert refusal(relay) is None


def test_new_connections_per_second_are_limited(relay_of, app_of):
    relay = relay_of(app_of(limits=Limits(connections_per_second=2)))
    assert [refusal(relay) for _ in range(3)] == [None, None, 4100]
    relay.tick(0.5)
    assert refusal(relay) is None


def test_shutdown_closes_open_and_new_connections_with_4200(relay):
    client = relay.client()
    client.subscribe("quote.x.A")
    relay.hub.shutdown(relay.now)
    client.take()
    assert client.close_code == 4200
    assert refusal(relay) == 4200
    assert relay.wanted == []


def test_apps_are_replaced_without_dropping_the_others(relay_of, app_of):
    relay = relay_of(app_of(), app_of(id="2", key="two"), app_of(id="3", key="three"))
    one, two, three = (relay.client(app_of(id=id, key=key)) for id, key in (("1", "key"), ("2", "two"), ("3", "three")))
    changed = app_of(secrets=("new", "secret"), key="fresh", client_events=False)
    relay.hub.replace_apps([changed, app_of(id="2", key="two", enabled=False), app_of(id="4", key="four")], relay.now)
    for client in (one, two, three):
        client.take()
    assert [client.close_code for client in (one, two, three)] == [None, 4003, 4001]
    assert refusal(relay, "four") is None
    assert refusal(relay, "key") == 4001
    assert relay.hub.app_by_key("fresh") is changed
    assert one.send("client-x", {}, channel="private-room").names == ["error"]
    with pytest.raises(UnknownApp):
        relay.hub.users("3", "room")


# Names and interest --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channel", "says"),
    [
        ("quote.x", "quote.<provider>.<symbol>"),
        ("candle.x.A", "candle.<provider>.<symbol>.<timeframe>"),
        ("private-candle.x.A.7y", "<timeframe>"),
        ("account.x.A", "private-account"),
        ("private-account.5", "private-account.<provider>.<account>"),
        ("presence-account.all.A", "market streams only"),
        ("quote.nobody.A", "no provider nobody"),
        ("cache-quote.nobody.A", "no provider nobody"),
    ],
)
def test_a_malformed_stream_name_is_refused_with_the_error(relay_of, channel, says):
    relay = relay_of(known=lambda stream: "no provider nobody" if stream.provider == "nobody" else None)
    (refused,) = relay.client().subscribe(channel, "ada")
    assert refused["event"] == "pusher:subscription_error"
    assert refused["data"]["status"] == 404
    assert says in refused["data"]["error"]
    assert relay.wanted == []
    assert list(relay.hub.channels("1", "", relay.now)) == []


@pytest.mark.parametrize("channel", ["quote", "order.x.A", "my-quote.x.A", "private-encrypted-quote.x.A", "chat.quote"])
def test_every_other_name_is_the_applications(relay, channel):
    assert relay.client().subscribe(channel).names == ["subscription_succeeded"]
    assert relay.wanted == []


def test_licensed_data_need_authorization(relay_of):
    relay = relay_of(is_private=lambda stream: True)
    client = relay.client()
    assert client.subscribe("quote.x.A")[0]["data"]["status"] == 401
    assert client.subscribe("cache-quote.x.A")[0]["data"]["status"] == 401
    assert client.subscribe("private-quote.x.A").names == ["subscription_succeeded"]
    assert client.subscribe("private-cache-quote.x.A").names == ["subscription_succeeded", "cache_miss"]


def test_a_stream_is_wanted_from_the_first_subscriber_to_the_last(relay_of, app_of):
    other = app_of(id="2", key="two")
    relay = relay_of(app_of(), other)
    one, two = relay.client(), relay.client(other)
    stream = Stream("x", Topic(kind="quote", symbol="A"))
    one.subscribe("quote.x.A")
    two.subscribe("cache-quote.x.A")
    assert relay.wanted == [stream]
    one.gone()
    assert relay.wanted == [stream]
    two.unsubscribe("cache-quote.x.A")
    assert relay.wanted == []


def test_events_published_while_a_stream_is_wanted_reach_the_new_subscriber(relay_of):
    relay = relay_of()
    relay.wanted = _Answers(relay)
    relay.hub._shared.streams._want = lambda stream, by: relay.wanted.append(stream)
    assert relay.client().subscribe("quote.x.A").names == ["subscription_succeeded", "quote"]


class _Answers(list):
    def __init__(self, relay):
        self.relay = relay

    def append(self, stream):
        super().append(stream)
        self.relay.publish(Quote(symbol=stream.topic.symbol, bid="1"))


# Questions -----------------------------------------------------------------------------------------------------------


def test_queries_of_an_apps_server(relay):
    ada, tab = relay.client(), relay.client()
    ada.subscribe("presence-cache-room", "ada")
    tab.subscribe("presence-cache-room", "ada")
    relay.trigger("presence-cache-room", data="hi")
    relay.now += 100
    state = relay.hub.channel_info("1", "presence-cache-room", relay.now)
    assert (state.occupied, state.user_count, state.subscription_count) == (True, 1, 2)
    assert (state.cache, state.cache_ttl) == ("hi", 1700)
    ((_, listed),) = relay.hub.channels("1", "presence-", relay.now)
    assert (listed.occupied, listed.user_count) == (True, 1)
    assert list(relay.hub.channels("1", "x", relay.now)) == []
    empty = relay.hub.channel_info("1", "nobody", relay.now)
    assert (empty.occupied, empty.subscription_count, empty.cache) == (False, 0, None)


def test_the_snapshot_is_json(relay):
    relay.client().subscribe("quote.x.A")
    relay.publish(Quote(symbol="A", bid="1"))
    snapshot = json.loads(json.dumps(relay.hub.snapshot()))
    assert snapshot["published"] == {"quote": 1}
    assert snapshot["streams"][0]["subscribers"] == 1
    assert snapshot["apps"]["1"]["channels"]["quote.x.A"]["seq"] == 1


# Nothing is left -----------------------------------------------------------------------------------------------------

CHANNELS = [
    "room",
    "cache-room",
    "private-room",
    "presence-room",
    "presence-cache-room",
    "private-encrypted-room",
    "quote.x.A",
    "quote.all.A",
    "cache-quote.x.A",
    "depth.x.A",
    "depth.all.A",
    "presence-account.x.P",
    "status.x",
    "quote.x",
    "#server-to-user-ada",
]
USERS = ["ada", "bob", "cy"]
whom = st.integers(0, 3)
steps = st.one_of(
    st.tuples(st.just("subscribe"), whom, st.sampled_from(CHANNELS), st.sampled_from(USERS)),
    st.tuples(st.just("unsubscribe"), whom, st.sampled_from(CHANNELS)),
    st.tuples(st.just("sign_in"), whom, st.sampled_from(USERS), st.sampled_from(USERS)),
    st.tuples(st.just("client_event"), whom, st.sampled_from(CHANNELS)),
    st.tuples(st.just("gone"), whom),
    st.tuples(st.just("slow"), whom, st.booleans()),
    st.tuples(st.just("terminate"), st.sampled_from(USERS)),
    st.tuples(st.just("publish"), st.sampled_from("xy"), st.booleans()),
    st.tuples(st.just("trigger"), st.sampled_from(CHANNELS[:6])),
    st.tuples(st.just("tick"), st.sampled_from([1.0, 40.0, 400.0])),
)


class Party:
    """Four seats of subscribers, and the steps above."""

    def __init__(self, relay, app):
        self.relay = relay
        self.app = app
        self.seats = [relay.client(app) for _ in range(4)]

    def __call__(self, step, *arguments):
        getattr(self, step)(*arguments)
        for client in self.seats:
            client.take()

    def subscribe(self, seat, channel, user):
        self.seats[seat].subscribe(channel, user, ids=True)

    def unsubscribe(self, seat, channel):
        self.seats[seat].unsubscribe(channel)

    def sign_in(self, seat, user, watched):
        self.seats[seat].sign_in(user, watched)

    def client_event(self, seat, channel):
        self.seats[seat].send("client-x", {}, channel=channel)

    def gone(self, seat):
        self.seats[seat].gone()
        self.seats[seat] = self.relay.client(self.app)

    def slow(self, seat, slow):
        self.seats[seat].slow = slow

    def terminate(self, user):
        self.relay.hub.terminate_user("1", user, self.relay.now)

    def publish(self, provider, snapshot):
        self.relay.publish(Quote(symbol="A", bid="1"), provider)
        self.relay.publish(Depth(symbol="A", bids=[("1", "1")], asks=[], snapshot=snapshot), provider)
        self.relay.publish(Staleness(event="STALE", symbols=["A"]), provider)

    def trigger(self, channel):
        self.relay.trigger(channel)

    def tick(self, seconds):
        self.relay.tick(seconds)


@given(st.lists(steps, max_size=60))
def test_nothing_is_left_when_all_connections_have_closed(relay_of, app_of, script):
    app = app_of(subscription_count=True)
    relay = relay_of(app)
    party = Party(relay, app)
    for step in script:
        party(*step)
    for client in party.seats:
        client.gone()
    app_state = relay.hub._by_id["1"]
    assert not app_state.channels
    assert not app_state.sessions
    assert not app_state.users
    assert not len(app_state.counts)
    assert relay.wanted == []
    occupied = [event.name for event in relay.channel_events if event.name in ("channel_occupied", "channel_vacated")]
    assert occupied.count("channel_occupied") == occupied.count("channel_vacated")
    members = [event.name for event in relay.channel_events if event.name in ("member_added", "member_removed")]
    assert members.count("member_added") == members.count("member_removed")
    relay.tick(2000)
    relay.tick(2000)
    assert not app_state.topics
    assert {stream["kind"] for stream in relay.hub.snapshot()["streams"]} <= {"account", "status"}
