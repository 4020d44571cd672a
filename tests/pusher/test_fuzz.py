"""Arbitrary input of arbitrary peers: no exception, documented codes only, and nothing left behind."""

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.pusher import (
    ApiError,
    ClientConnection,
    ClientEvent,
    CloseConnection,
    JoinChannel,
    LeaveChannel,
    Limits,
    PusherCloseCode,
    SendMessage,
    ServerConnection,
    SignIn,
    http_api,
    messages,
    signatures,
)
from relay.pusher.client import ClientSignal
from tests.pusher.talking import SOCKET_ID, make_app

APP = make_app(limits=Limits(subscriptions=5, message_size=2000, watchlist=2), authorization_timeout=300)
bounded = settings(max_examples=3 * settings().max_examples, suppress_health_check=[HealthCheck.too_slow])

channels = st.sampled_from(
    [
        "a",
        "b",
        "cache-a",
        "private-a",
        "presence-a",
        "presence-b",
        "private-encrypted-a",
        "#server-to-user-1",
        "a b",
        "",
    ]
)
events = st.sampled_from(
    ["pusher:subscribe", "pusher:unsubscribe", "pusher:signin", "pusher:ping", "pusher:pong", "client-a", "quote", ""]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | channels | events
fields = st.sampled_from(
    ["event", "channel", "data", "auth", "channel_data", "user_data", "resume", "rewind", "ids", "epoch", "seq", "id"]
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(fields | st.text(max_size=8), inner, max_size=5),
    max_leaves=20,
)


def as_text(value):
    return json.dumps(value)


def subscription(channel, user):
    data = json.dumps({"user_id": user}) if channel.startswith("presence-") else None
    auth = signatures.channel_auth(APP, SOCKET_ID, channel, data)
    return messages.client_subscribe(channel, auth=auth, channel_data=data)


def sign_in(user):
    user_data = json.dumps({"id": user, "watchlist": ["1", "2", "3"]})
    return messages.client_signin(signatures.user_auth(APP, SOCKET_ID, user_data), user_data)


valid = st.one_of(
    st.builds(subscription, channels, st.sampled_from(["1", "2"])),
    st.builds(messages.client_unsubscribe, channels),
    st.builds(sign_in, st.sampled_from(["1", "2"])),
    st.builds(messages.client_event, channels, st.just("client-a"), st.text(max_size=20)),
    st.just(messages.ping()),
)
frames = st.one_of(
    valid,
    st.text(max_size=100),
    anything.map(as_text),
    st.builds(lambda event, data: as_text({"event": event, "data": data}), events, anything),
    st.builds(
        lambda event, data: as_text({"event": event, "data": as_text(data)}),
        events,
        st.dictionaries(fields, anything, max_size=5),
    ),
)
steps = st.lists(st.tuples(frames | st.none(), st.floats(0, 200)), max_size=30)


def check_text(text):
    message = json.loads(text)
    assert message["event"].startswith("pusher")
    if message["event"] == "pusher:error":
        assert message["data"]["code"] in {None, *map(int, PusherCloseCode)}


def check(actions, held):
    """Each action is one of the documented ones; `held` follows the subscriptions."""
    for action in actions:
        match action:
            case SendMessage(text):
                check_text(text)
            case JoinChannel(channel=channel):
                assert channel not in held
                held.add(channel)
            case LeaveChannel(channel):
                held.remove(channel)
            case ClientEvent(channel):
                assert channel in held
            case CloseConnection(code, reason):
                assert code in set(PusherCloseCode)
                assert len(reason.encode()) <= 123
            case SignIn(_, _, watchlist):
                assert len(watchlist) <= 2


@bounded
@given(steps, st.sampled_from(["4", "5", "6", "7"]))
def test_any_sequence_of_messages(script, protocol):
    now, held = 0.0, set()
    server = ServerConnection(APP, SOCKET_ID, now)
    check(server.open({"protocol": protocol}), held)
    for text, pause in script:
        now += pause
        check(server.timeout(now), held)
        check(server.receive_binary(now) if text is None else server.receive(text, now), held)
        assert set(server.channels) == held
        assert len(held) <= 5
        assert server.closed or server.deadline() > now
    check(server.lost(), held)
    assert held == set()
    assert not server.channels
    assert server.receive(messages.ping(), now) == []


@bounded
@given(st.dictionaries(st.sampled_from(["protocol", "client", "version"]), st.text(max_size=10)))
def test_any_query(query):
    (action,) = ServerConnection(APP, SOCKET_ID, 0).open(query)
    assert isinstance(action, SendMessage) or action.code in {4006, 4007, 4008}


relay_events = st.sampled_from(
    [
        "pusher:connection_established",
        "pusher:error",
        "pusher:subscription_error",
        "pusher:cache_miss",
        "pusher:signin_success",
        "pusher_internal:subscription_succeeded",
        "pusher_internal:member_added",
        "pusher_internal:member_removed",
        "pusher_internal:subscription_count",
        "pusher_internal:watchlist_events",
        "tickrelay:resume_succeeded",
        "tickrelay:resume_failed",
    ]
)
client_fields = st.sampled_from(
    ["socket_id", "activity_timeout", "presence", "hash", "user_id", "user_info", "events", "user_ids", "name", "code"]
)
server_frames = st.one_of(
    frames,
    st.builds(
        lambda event, data, inner: as_text({"event": event, "channel": "a", "data": as_text(data) if inner else data}),
        relay_events,
        st.dictionaries(client_fields | fields, anything, max_size=5),
        st.booleans(),
    ),
)


@bounded
@given(st.lists(st.tuples(server_frames, st.floats(0, 50)), max_size=30))
def test_a_client_survives_any_server(script):
    now = 0.0
    client = ClientConnection("key", now)
    for text, pause in script:
        now += pause
        for signal in [*client.timeout(now), *client.receive(text, now)]:
            assert isinstance(signal, ClientSignal)


PARSERS = (
    http_api.parse_trigger,
    http_api.parse_batch,
    lambda app, body: http_api.parse_channel_event(app, "a", {}, body),
    lambda app, body: http_api.parse_channel_event(app, "a", {"name": "e"}, body),
    lambda app, body: http_api.parse_user_event(app, "1", body),
)


def refusal(call, *args):
    """The refusal of a call, None where there was none; anything else raised is a failure."""
    try:
        call(*args)
    except ApiError as refused:
        return refused
    return None


bodies = st.one_of(
    st.binary(max_size=100),
    anything.map(as_text).map(str.encode),
    st.fixed_dictionaries(
        {}, optional={"name": anything, "data": anything, "channel": anything, "channels": anything, "info": anything}
    )
    .map(lambda event: st.sampled_from([event, {"batch": [event]}]))
    .flatmap(lambda choice: choice)
    .map(as_text)
    .map(str.encode),
)


@bounded
@given(bodies, st.sampled_from(PARSERS))
def test_any_body(body, parse):
    refused = refusal(parse, APP, body)
    if refused is not None:
        assert refused.status in {400, 413}
        assert json.loads(refused.body)["error"] == refused.message


@bounded
@given(st.text(max_size=20), st.text(max_size=40), st.text(max_size=80), st.binary(max_size=20))
def test_nobody_is_let_in_by_chance(method, path, query, body):
    refused = refusal(http_api.authenticate, APP, method, path, query, body, 1e9)
    assert refused is not None
    assert refused.status in {400, 401}


@bounded
@given(
    st.dictionaries(st.text(max_size=10), st.text(max_size=20), max_size=5),
    st.text(max_size=20),
    st.binary(max_size=20),
)
def test_whatever_is_signed_is_let_in(params, path, body):
    reserved = {"auth_key", "auth_timestamp", "auth_version", "auth_signature", "body_md5"}
    params = {name.lower(): value for name, value in params.items() if name.lower() not in reserved}
    query = signatures.signed_query(APP, "POST", path, body, 1e9, params)
    assert http_api.authenticate(APP, "POST", path, query, body, 1e9) == params


@bounded
@given(
    st.dictionaries(st.sampled_from(["info", "filter_by_prefix", "epoch", "after_seq", "limit"]), st.text(max_size=12))
)
def test_any_question(params):
    for ask, *channel in (
        (http_api.parse_channels_query,),
        (http_api.parse_channel_query, "presence-a"),
        (http_api.parse_history_query, "a"),
    ):
        refused = refusal(ask, APP, *channel, params)
        assert refused is None or refused.status == 400
