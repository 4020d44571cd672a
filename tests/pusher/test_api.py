"""The HTTP API: who is let in, what is understood, and the exact answers."""

import json
from urllib.parse import urlsplit

import pusher
import pytest
from pusher.http import Request

from relay.pusher import ApiError, Limits, ResumePosition, http_api, signatures
from relay.pusher.http_api import ChannelState, HistoryQuery, Info, Trigger
from tests.pusher.talking import make_app

NOW = 1353088179.0
BODY = b'{"name":"foo","channels":["project-3"],"data":"{\\"some\\":\\"data\\"}"}'


def query_of(app, method="POST", path="/apps/3/events", body=BODY, now=NOW, **params):
    return signatures.signed_query(app, method, path, body, now, params)


def refusal(call, *args):
    with pytest.raises(ApiError) as refused:
        call(*args)
    return refused.value.status, refused.value.message


def body(**fields):
    return json.dumps({"name": "e", "data": "x", "channel": "a"} | fields).encode()


# Who asks ------------------------------------------------------------------------------------------------------------


def test_the_worked_example_of_the_reference(app):
    query = (
        "auth_key=278d425bdf160c739803&auth_timestamp=1353088179&auth_version=1.0"
        "&body_md5=ec365a775a4cd0599faeb73354201b6f"
        "&auth_signature=da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c"
    )
    assert http_api.authenticate(app, "POST", "/apps/3/events", query, BODY, NOW) == {}
    assert http_api.parse_trigger(app, BODY) == Trigger(name="foo", channels=("project-3",), data='{"some":"data"}')
    assert http_api.auth_key(query) == app.key


def test_parameters_come_back_unescaped(app):
    query = query_of(app, "GET", "/apps/3/channels", b"", Filter_By_Prefix="presence-", info="user_count,cache")
    assert http_api.authenticate(app, "GET", "/apps/3/channels", query, b"", NOW) == {
        "filter_by_prefix": "presence-",
        "info": "user_count,cache",
    }


def test_what_the_library_sends_is_let_in(app):
    library = pusher.Pusher(app_id=app.id, key=app.key, secret=app.secret, host="127.0.0.1", port=1, ssl=False)
    client = library._pusher_client
    requests: list[Request] = [
        client.trigger.make_request(["a", "b"], "e", {"x": 1}, "1.2"),
        client.trigger_batch.make_request([{"channel": "a", "name": "e", "data": {"x": 1}}]),
        client.channels_info.make_request("presence-", ["user_count"]),
        client.channel_info.make_request("presence-a", ["user_count", "subscription_count"]),
        client.users_info.make_request("presence-a"),
        client.terminate_user_connections.make_request("u-1"),
    ]
    for request in requests:
        url = urlsplit(request.url)
        assert http_api.auth_key(url.query) == app.key
        now = float(request.query_params["auth_timestamp"])
        http_api.authenticate(app, request.method, url.path, url.query, request.body, now)
    assert http_api.parse_trigger(app, requests[0].body) == Trigger(
        name="e", channels=("a", "b"), data='{"x": 1}', socket_id="1.2"
    )
    assert http_api.parse_batch(app, requests[1].body) == (Trigger(name="e", channels=("a",), data='{"x": 1}'),)


@pytest.mark.parametrize("off", [-600, 0, 600])
def test_the_clock_may_be_ten_minutes_off(app, off):
    http_api.authenticate(app, "POST", "/apps/3/events", query_of(app, now=NOW + off), BODY, NOW)


@pytest.mark.parametrize(
    ("changed", "status", "says"),
    [
        ({"method": "PUT"}, 401, "auth_signature"),
        ({"path": "/apps/4/events"}, 401, "auth_signature"),
        ({"body": BODY + b" "}, 401, "body_md5 is not"),
        ({"now_unix": NOW + 601}, 401, "auth_timestamp is 601 s off"),
        ({"now_unix": NOW - 601}, 401, "auth_timestamp is 601 s off"),
        ({"app": make_app(key="other")}, 401, "auth_key"),
        ({"app": make_app(secrets=("other",))}, 401, "auth_signature"),
        ({"app": make_app(enabled=False)}, 403, "disabled"),
    ],
)
def test_what_is_not_let_in(app, changed, status, says):
    given = {
        "app": app,
        "method": "POST",
        "path": "/apps/3/events",
        "raw_query": query_of(app),
        "body": BODY,
        "now_unix": NOW,
    }
    http_api.authenticate(**given)
    with pytest.raises(ApiError) as refused:
        http_api.authenticate(**(given | changed))
    assert refused.value.status == status
    assert says in refused.value.message


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        (lambda q: "", 401, "auth_key is missing"),
        (lambda q: q.replace("auth_key=", "key="), 401, "auth_key is missing"),
        (lambda q: q.partition("&auth_signature")[0], 401, "auth_signature is missing"),
        (lambda q: q.replace("auth_timestamp=1353088179", "auth_timestamp=soon"), 401, "auth_timestamp must be"),
        (lambda q: q.replace("auth_timestamp=1353088179", "auth_timestamp=-1353088179"), 401, "auth_timestamp must"),
        (lambda q: q.replace("auth_timestamp=1353088179", "auth_timestamp=" + "9" * 5000), 401, "auth_timestamp must"),
        (lambda q: q.replace("auth_timestamp=1353088179", "auth_timestamp=1353088178"), 401, "auth_signature"),
        (lambda q: q.replace("auth_version=1.0", "auth_version=2.0"), 401, "auth_version"),
        (lambda q: q.replace("&body_md5=ec365a775a4cd0599faeb73354201b6f", ""), 401, "auth_signature"),
        (lambda q: q.replace("body_md5=ec", "body_md5=ed"), 401, "auth_signature"),
        (lambda q: q.replace("auth_signature=da", "auth_signature=db"), 401, "auth_signature"),
        (lambda q: q + "&info=x", 401, "auth_signature"),
        (lambda q: q + "&auth_key=278d425bdf160c739803", 400, "'auth_key' occurs twice"),
        (lambda q: q + "&a=1&A=2", 400, "'a' occurs twice"),
    ],
)
def test_queries_tampered_with(app, change, status, says):
    query = change(query_of(app))
    got, text = refusal(http_api.authenticate, app, "POST", "/apps/3/events", query, BODY, NOW)
    assert got == status
    assert says in text


def test_a_request_without_a_body_may_sign_that_or_not(app):
    for extra in ({}, {"body_md5": "d41d8cd98f00b204e9800998ecf8427e"}):
        query = query_of(app, "GET", "/apps/3/channels", b"", **extra)
        http_api.authenticate(app, "GET", "/apps/3/channels", query, b"", NOW)


# Events --------------------------------------------------------------------------------------------------------------


def test_triggers(app):
    assert http_api.parse_trigger(app, body(socket_id="1.2", info="user_count,subscription_count")) == Trigger(
        name="e",
        channels=("a",),
        data="x",
        socket_id="1.2",
        info=Info(user_count=True, subscription_count=True),
    )
    assert http_api.parse_trigger(app, body(channels=["a", "b", "a"])).channels == ("a", "b")
    assert http_api.parse_trigger(app, body(channel="#server-to-user-7")).channels == ("#server-to-user-7",)
    assert http_api.parse_trigger(app, body(info="", socket_id=None, channels=None, extra=1)).info is None
    assert http_api.parse_trigger(app, body(data="x" * 10_240))
    assert len(http_api.parse_trigger(app, body(channels=[f"c{n}" for n in range(100)])).channels) == 100


@pytest.mark.parametrize(
    ("raw", "status", "says"),
    [
        (b"", 400, "body is not the JSON expected"),
        (b"[]", 400, "body is not the JSON expected"),
        (b"{", 400, "body is not the JSON expected"),
        (b"\xff", 400, "body is not the JSON expected"),
        (b"[" * 100_000, 400, "body is not the JSON expected"),
        (b"{}", 400, "`name`"),
        (b'{"name":"e","channel":"a"}', 400, "`data`"),
        (b'{"name":"e","data":"x"}', 400, "channels: names no channel"),
        (body(channels=[]), 400, "channels: names no channel"),
        (body(name=7), 400, "$.name"),
        (body(name=""), 400, "name: event name is empty"),
        (body(name="x" * 201), 400, "limit event_name"),
        (body(name="pusher:ping"), 400, "name: event name 'pusher:ping' is reserved"),
        (body(data={"x": 1}), 400, "$.data"),
        (body(data=None), 400, "$.data"),
        (
            body(data="x" * 10_241),
            413,
            "data: the content of this event is larger than 10240 bytes (limit event_payload)",
        ),
        (body(data="é" * 5_121), 413, "limit event_payload"),
        (body(channel="a b"), 400, "channel: channel name 'a b' may only contain"),
        (body(channel="x" * 165), 400, "limit channel_name"),
        (body(channel=7), 400, "$.channel"),
        (body(channels="a"), 400, "$.channels"),
        (body(channels=["a", 7]), 400, "$.channels[1]"),
        (body(channels=[f"c{n}" for n in range(101)]), 400, "limit channels_per_trigger"),
        (body(socket_id="12"), 400, "socket_id"),
        (body(socket_id=""), 400, "socket_id"),
        (body(info="cache"), 400, "info: attribute 'cache'"),
        (body(info="nonsense"), 400, "info: attribute 'nonsense'"),
        (b"x" * 1_048_577, 413, "limit request_body"),
    ],
)
def test_triggers_refused(app, raw, status, says):
    got, text = refusal(http_api.parse_trigger, app, raw)
    assert got == status
    assert says in text


def test_batches(app):
    batch = [{"name": "e", "channel": f"c{n}", "data": "x"} for n in range(10)]
    batch[3]["info"] = "subscription_count"
    triggers = http_api.parse_batch(app, json.dumps({"batch": batch}).encode())
    assert [trigger.channels for trigger in triggers] == [(f"c{n}",) for n in range(10)]
    assert triggers[3].info == Info(subscription_count=True)
    assert http_api.parse_batch(app, b'{"batch":[]}') == ()


@pytest.mark.parametrize(
    ("batch", "status", "says"),
    [
        ([{"name": "e", "channel": "a", "data": "x"}] * 11, 400, "limit batch"),
        ([{"name": "e", "channel": "a", "data": "x"}, {"name": "e", "data": "x"}], 400, "batch[1].channel is missing"),
        ([{"name": "e", "channel": "a", "data": "x" * 10_241}], 413, "batch[0].data"),
        ([{"name": "e", "channel": "a b", "data": "x"}], 400, "batch[0].channel"),
        ([{"channel": "a", "data": "x"}], 400, "`name`"),
        ({}, 400, "$.batch"),
    ],
)
def test_batches_refused(app, batch, status, says):
    got, text = refusal(http_api.parse_batch, app, json.dumps({"batch": batch}).encode())
    assert got == status
    assert says in text


def test_the_deprecated_form(app):
    new = http_api.parse_channel_event(app, "a", {}, b'{"name":"e","data":"x","channel":"ignored"}')
    old = http_api.parse_channel_event(app, "a", {"name": "e", "socket_id": "1.2"}, b'{"raw": 1}')
    assert new == Trigger(name="e", channels=("a",), data="x")
    assert old == Trigger(name="e", channels=("a",), data='{"raw": 1}', socket_id="1.2")
    assert refusal(http_api.parse_channel_event, app, "a b", {"name": "e"}, b"x")[0] == 400
    assert refusal(http_api.parse_channel_event, app, "a", {"name": "e"}, b"\xff") == (400, "body is not UTF-8")


def test_events_for_a_user(app):
    assert http_api.parse_user_event(app, "7", b'{"name":"e","data":"x"}').channels == ("#server-to-user-7",)
    assert refusal(http_api.parse_user_event, app, "", b'{"name":"e","data":"x"}')[0] == 400
    assert refusal(http_api.parse_user_event, app, "u" * 129, b'{"name":"e","data":"x"}')[0] == 400
    http_api.parse_terminate(app, "u" * 128)
    assert "limit user_id" in refusal(http_api.parse_terminate, app, "u" * 129)[1]


# Questions -----------------------------------------------------------------------------------------------------------


def test_questions(app):
    assert http_api.parse_channels_query(app, {}) == ("", Info())
    assert http_api.parse_channels_query(app, {"filter_by_prefix": "presence-x", "info": "user_count"}) == (
        "presence-x",
        Info(user_count=True),
    )
    assert http_api.parse_channel_query(app, "a", {}) == Info()
    assert http_api.parse_channel_query(
        app, "presence-cache-a", {"info": "user_count, cache,subscription_count"}
    ) == Info(user_count=True, subscription_count=True, cache=True)
    http_api.parse_users_query(app, "presence-a")


@pytest.mark.parametrize(
    ("call", "args"),
    [
        (http_api.parse_channels_query, ({"info": "user_count"},)),
        (http_api.parse_channels_query, ({"info": "user_count", "filter_by_prefix": "private-"},)),
        (http_api.parse_channels_query, ({"info": "cache"},)),
        (http_api.parse_channel_query, ("a", {"info": "user_count"})),
        (http_api.parse_channel_query, ("presence-a", {"info": "cache"})),
        (http_api.parse_channel_query, ("a", {"info": "nonsense"})),
        (http_api.parse_channel_query, ("a b", {})),
        (http_api.parse_users_query, ("private-a",)),
        (http_api.parse_users_query, ("a b",)),
        (http_api.parse_history_query, ("a", {"epoch": "e"})),
        (http_api.parse_history_query, ("a", {"after_seq": "1"})),
        (http_api.parse_history_query, ("a", {"epoch": "e", "after_seq": "-1"})),
        (http_api.parse_history_query, ("a", {"epoch": "e", "after_seq": "9" * 30})),
        (http_api.parse_history_query, ("a", {"limit": "0"})),
        (http_api.parse_history_query, ("a", {"limit": "1001"})),
        (http_api.parse_history_query, ("a b", {})),
    ],
)
def test_questions_refused(app, call, args):
    assert refusal(call, app, *args)[0] == 400


def test_history_questions(app):
    assert http_api.parse_history_query(app, "a", {}) == HistoryQuery(after=None, limit=1000)
    assert http_api.parse_history_query(app, "a", {"epoch": "e", "after_seq": "0", "limit": "5"}) == HistoryQuery(
        after=ResumePosition("e", 0), limit=5
    )
    assert http_api.parse_history_query(make_app(limits=Limits(rewind=9)), "a", {}).limit == 9


# Answers -------------------------------------------------------------------------------------------------------------

STATE = ChannelState(occupied=True, user_count=42, subscription_count=51, cache="x", cache_ttl=90.7)
ALL = Info(user_count=True, subscription_count=True)


def channels(info: Info, **occupied: ChannelState) -> bytes:
    return http_api.channels_response(http_api.channels_item(info, each) for each in occupied.items())


@pytest.mark.parametrize(
    ("answer", "exact"),
    [
        (http_api.trigger_response(None, {}), b"{}"),
        (http_api.trigger_response(None, {"a": STATE}), b"{}"),
        (
            http_api.trigger_response(ALL, {"presence-a": STATE, "b": STATE}),
            b'{"channels":{"presence-a":{"user_count":42,"subscription_count":51},"b":{"subscription_count":51}}}',
        ),
        (http_api.batch_response([Trigger(name="e", channels=("a",), data="x")], {"a": STATE}), b"{}"),
        (
            http_api.batch_response(
                [
                    Trigger(name="e", channels=("presence-a",), data="x", info=ALL),
                    Trigger(name="e", channels=("b",), data="x"),
                    Trigger(name="e", channels=("c",), data="x", info=ALL),
                ],
                {"presence-a": STATE},
            ),
            b'{"batch":[{"user_count":42,"subscription_count":51},{},{"subscription_count":0}]}',
        ),
        (channels(Info()), b'{"channels":{}}'),
        (channels(Info(), a=STATE), b'{"channels":{"a":{}}}'),
        (
            channels(Info(user_count=True), **{"presence-a": STATE}),
            b'{"channels":{"presence-a":{"user_count":42}}}',
        ),
        (http_api.channel_response("a", Info(), STATE), b'{"occupied":true}'),
        (http_api.channel_response("a", Info(), ChannelState()), b'{"occupied":false}'),
        (
            http_api.channel_response(
                "presence-cache-a", Info(user_count=True, subscription_count=True, cache=True), STATE
            ),
            b'{"occupied":true,"user_count":42,"subscription_count":51,"cache":{"data":"x","ttl":90}}',
        ),
        (http_api.channel_response("cache-a", Info(cache=True), ChannelState()), b'{"occupied":false,"cache":null}'),
        (http_api.users_response(["1", "2"]), b'{"users":[{"id":"1"},{"id":"2"}]}'),
        (http_api.users_response([]), b'{"users":[]}'),
        (
            http_api.history_response(ResumePosition("e", 7), [{"event": "quote", "seq": 7}]),
            b'{"epoch":"e","seq":7,"more":false,"events":[{"event":"quote","seq":7}]}',
        ),
        (ApiError(413, "data: too large").body, b'{"error":"data: too large","status":413}'),
        (
            http_api.history_gone("position_expired", ResumePosition("e", 7)).body,
            b'{"error":"the channel\'s history does not reach back to there: position_expired","status":410,'
            b'"reason":"position_expired","epoch":"e","seq":7}',
        ),
        (
            http_api.history_gone("history_disabled", None).body,
            b'{"error":"the channel\'s history does not reach back to there: history_disabled","status":410,'
            b'"reason":"history_disabled"}',
        ),
    ],
)
def test_exact_answers(answer, exact):
    assert answer == exact
