"""The session bootstrap: catalog, session, channel authorization, as Shuriken's SDK and pusher-js use them."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from relay.plugins.hookspecs import Grant
from relay.pusher.signatures import verify_authority
from relay.server.api.channels import ApiSettings, PublicAddress, parse_address, public_address
from support.api_harness import APP, BEARER, KEY, KEYS, OTHER, Rig

NARROW = {"Authorization": "Bearer narrow-key"}


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    async with rig.http:
        yield rig


async def session(rig: Rig, *streams: Any, headers: dict[str, str] = BEARER) -> Any:
    return await rig.http.post("/api/v2/ws/session", json={"subscriptions": list(streams)}, headers=headers)


async def authorize(rig: Rig, channel: str, headers: dict[str, str] = BEARER, **more: str) -> Any:
    form = {"socket_id": "1.2", "channel_name": channel, **more}
    return await rig.http.post("/api/v2/ws/auth", data=form, headers=headers)


def vouched(answer: dict[str, str], socket_id: str, channel: str) -> str | None:
    """The name of the API key for which the answer authorizes this socket and channel."""
    found = verify_authority(APP, answer["auth"], socket_id, channel, answer.get("channel_data"), KEYS.digest_of)
    return None if found is None else found.key


async def test_a_session_is_a_bare_object_of_the_published_shape(rig: Rig) -> None:
    answer = await session(rig, {"stream": "helio.quote", "filter": {"symbol": "EUR/USD"}})
    assert answer.status_code == 200
    assert answer.json() == {
        "connection": {
            "provider": "pusher",
            "appKey": APP.key,
            "wsHost": "relay.test",
            "wsPort": 6001,
            "forceTls": False,
            "authEndpoint": "http://relay.test:6001/api/v2/ws/auth",
        },
        "session": {"recommendedReconnectBackoffMs": [1000, 2000, 4000, 8000, 16000]},
        "subscriptions": [
            {
                "stream": "helio.quote",
                "channel": "quote.helio.EUR-USD",
                "event": "quote",
                "visibility": "public",
                "payloadFormat": "json",
                "payloadSchemaId": "quote",
                "payloadSchemaUrl": "http://relay.test:6001/schemas/quote.json",
            }
        ],
    }


async def test_what_the_sdk_asks_for_when_it_connects_is_answered(rig: Rig) -> None:
    answer = await session(rig, {"stream": "alpha.signalFeedGlobal", "filter": {}})
    (resolved,) = answer.json()["subscriptions"]
    assert resolved["stream"] == "alpha.signalFeedGlobal"
    subscriber = rig.connect()
    subscriber.say("pusher:subscribe", {"channel": resolved["channel"]})
    assert [message["event"] for message in subscriber.heard()] == ["pusher_internal:subscription_succeeded"]
    assert (resolved["event"], resolved["visibility"]) == ("signal", "public")


async def test_repeats_and_several_streams_are_answered_in_order(rig: Rig) -> None:
    quote = {"stream": "all.quote", "filter": {"symbol": "EUR/USD"}}
    orders = {"stream": "helio.order", "filter": {"account": "demo"}}
    status = {"stream": "helio.status"}
    resolved = (await session(rig, quote, orders, status, quote)).json()["subscriptions"]
    assert [(item["channel"], item["event"]) for item in resolved] == [
        ("quote.all.EUR-USD", "quote"),
        ("presence-account.helio.demo", "order"),
        ("status.helio", "connection"),
        ("quote.all.EUR-USD", "quote"),
    ]


async def test_a_streams_filters_may_stand_behind_its_id(rig: Rig) -> None:
    asked = [
        {"stream": "helio.quote:EUR/USD"},
        {"stream": "helio.candle:8453:0xabc:1m"},
        {"stream": "helio.candle:EUR/USD", "filter": {"timeframe": "1m"}},
        {"stream": "helio.order:demo", "filter": {}},
    ]
    # The names of streams are as they were asked for, since some clients find their answers by them alone.
    assert [(item["stream"], item["channel"]) for item in (await session(rig, *asked)).json()["subscriptions"]] == [
        ("helio.quote:EUR/USD", "quote.helio.EUR-USD"),
        ("helio.candle:8453:0xabc:1m", "candle.helio.8453=3A0xabc.1m"),
        ("helio.candle:EUR/USD", "candle.helio.EUR-USD.1m"),
        ("helio.order:demo", "presence-account.helio.demo"),
    ]


async def test_every_entry_of_the_catalog_works_with_its_example(rig: Rig) -> None:
    streams = (await rig.http.get("/api/v2/ws/streams", headers=BEARER)).json()["streams"]
    assert {"helio.quote", "helio.candle", "helio.account", "helio.order", "helio.status", "all.quote"} <= {
        entry["id"] for entry in streams
    }
    for entry in streams:
        assert set(entry) == {
            "id", "provider", "kind", "visibility", "filters", "event", "payloadFormat", "payloadSchemaId", "example",
        }  # fmt: skip
        (resolved,) = (await session(rig, {"stream": entry["id"], "filter": entry["example"]})).json()["subscriptions"]
        assert {name: resolved[name] for name in ("event", "visibility")} == {
            name: entry[name] for name in ("event", "visibility")
        }
        schema = await rig.http.get(resolved["payloadSchemaUrl"])
        assert schema.json()["title"] == entry["payloadSchemaId"]


async def test_the_catalog_shows_a_key_what_it_may_read(rig: Rig) -> None:
    own = (await rig.http.get("/api/v2/ws/streams", headers=NARROW)).json()["streams"]
    assert [entry["id"] for entry in own] == ["binance.quote"]
    demo = (await rig.http.get("/api/v2/ws/streams", headers=BEARER)).json()["streams"]
    (account,) = [entry for entry in demo if entry["id"] == "helio.account"]
    assert account["example"] == {"account": "demo"}
    assert "live" not in json.dumps(account)


@pytest.mark.parametrize(
    ("item", "status", "field", "says"),
    [
        ({"stream": "helio.quotes", "filter": {}}, 400, "subscriptions[0].stream", "helio.quote"),
        ({"stream": "helio.quote"}, 400, "subscriptions[0].filter.symbol", "EUR/USD"),
        ({"stream": "helio.quote", "filter": {"symbol": None}}, 400, "subscriptions[0].filter.symbol", "needs"),
        ({"stream": "helio.quote", "filter": {"symbol": 5}}, 400, "subscriptions[0].filter.symbol", "text"),
        ({"stream": "helio.quote", "filter": {"sym": "X"}}, 400, "subscriptions[0].filter.sym", "symbol"),
        ({"stream": "helio.quote", "filter": []}, 400, "subscriptions[0].filter", "object"),
        ({"stream": "helio.candle", "filter": {"symbol": "X", "timeframe": "2m"}}, 400,
         "subscriptions[0].filter.timeframe", "1m"),
        ({"stream": "helio.quote:EUR/USD", "filter": {"symbol": "X"}}, 400, "subscriptions[0].filter.symbol", "is given twice"),
        ({"stream": "helio.quote:"}, 400, "subscriptions[0].filter.symbol", "needs"),
        ({"stream": "helio.candle:X:2m"}, 400, "subscriptions[0].filter.timeframe", "1m"),
        ({"stream": "helio.status:X"}, 400, "subscriptions[0].stream", "no filters"),
        ({"stream": "helio.order:live"}, 403, "subscriptions[0]", "demo may not"),
        ({"stream": 5}, 400, "subscriptions[0].stream", "text"),
        ("helio.quote", 400, "subscriptions[0]", "object"),
        ({"stream": "helio.account", "filter": {"account": "live"}}, 403, "subscriptions[0]", "demo may not"),
        ({"stream": "helio.account", "filter": {"account": "none"}}, 403, "subscriptions[0]", "demo may not"),
    ],
)  # fmt: skip
async def test_a_wrong_subscription_is_named(rig: Rig, item: Any, status: int, field: str, says: str) -> None:
    answer = await session(rig, item)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["code"] == {400: "INVALID_PARAMS", 403: "FORBIDDEN"}[status]
    assert error["details"] == {"field": field}
    assert says in error["message"]
    assert answer.json()["requestId"].startswith("req_")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b"[]", "body"),
        (b"\xff", "body"),
        (b"[" * 10_000, "body"),
        (b"{}", "subscriptions"),
        (b'{"subscriptions":{}}', "subscriptions"),
        (b'{"subscriptions":[%b]}' % b",".join([b"{}"] * 101), "subscriptions"),
    ],
)
async def test_a_malformed_session_request_is_400_with_the_field(rig: Rig, body: bytes, field: str) -> None:
    answer = await rig.http.post("/api/v2/ws/session", content=body, headers=BEARER)
    assert answer.status_code == 400
    assert answer.json()["error"]["details"] == {"field": field}


@pytest.mark.parametrize("path", ["/api/v2/ws/session", "/api/v2/ws/streams", "/api/v2/ws/auth"])
@pytest.mark.parametrize("header", [None, "Bearer", "Bearer ", "Bearer wrong", f"Basic {KEY}", KEY])
async def test_without_a_valid_key_everything_is_401(rig: Rig, path: str, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    answer = await rig.http.request("GET" if path.endswith("streams") else "POST", path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["code"] == "UNAUTHORIZED"


async def test_too_large_is_413_and_no_such_path_404_and_no_such_method_405(rig: Rig) -> None:
    large = await rig.http.post("/api/v2/ws/session", content=b" " * 65_537, headers=BEARER)
    assert (large.status_code, large.json()["error"]["code"]) == (413, "PAYLOAD_TOO_LARGE")
    for path in ("/api/v2/ws/nothing", "/api/v2/ws/session/", "/api/v2/"):
        for method in ("GET", "POST"):
            missing = await rig.http.request(method, path, headers=BEARER)
            assert (missing.status_code, missing.json()["error"]["code"]) == (404, "NOT_FOUND")
    method = await rig.http.get("/api/v2/ws/session", headers=BEARER)
    assert (method.status_code, method.headers["allow"]) == (405, "POST")
    assert method.json()["error"]["code"] == "METHOD_NOT_ALLOWED"


# Where clients are sent ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("feed.example.com", ("feed.example.com", 80)),
        ("10.0.0.1:6001", ("10.0.0.1", 6001)),
        ("[::1]:6001", ("[::1]", 6001)),
    ],
)
async def test_clients_are_sent_where_they_came_to(rig: Rig, host: str, address: tuple[str, int]) -> None:
    forged = {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https", "Forwarded": "host=evil.example"}
    answer = await session(rig, headers={**BEARER, "Host": host, **forged})
    connection = answer.json()["connection"]
    assert (connection["wsHost"], connection["wsPort"]) == address
    assert connection["forceTls"] is False


@pytest.mark.parametrize("host", ["a b", "a/b", "a@b", "a:b", "a:99999", "a:0", "[::1", "<script>"])
async def test_a_host_header_that_is_none_is_400(rig: Rig, host: str) -> None:
    answer = await session(rig, headers={**BEARER, "Host": host})
    assert answer.status_code == 400
    assert answer.json()["error"]["details"] == {"field": "Host"}


async def test_a_configured_public_url_stands_above_the_host_header() -> None:
    rig = Rig(ApiSettings(app_id="3", public_url="https://feed.example.com"))
    async with rig.http:
        connection = (await session(rig)).json()["connection"]
    assert (connection["wsHost"], connection["wsPort"], connection["forceTls"]) == ("feed.example.com", 443, True)
    assert connection["authEndpoint"] == "https://feed.example.com/api/v2/ws/auth"


@pytest.mark.parametrize(
    "url", ["feed.example.com", "ftp://x", "https://", "https://x/path", "https://x?q", "https://a@b"]
)
def test_a_public_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="public_url"):
        ApiSettings(app_id="3", public_url=url)


def test_addresses_are_written_with_the_port_only_where_it_says_something() -> None:
    assert public_address("https://feed.example.com/").url == "https://feed.example.com"
    assert public_address("http://[::1]:6001") == PublicAddress("[::1]", 6001, False)
    assert PublicAddress("h", 443, False).url == "http://h:443"
    assert parse_address("", tls=False) is None


# Authorization -------------------------------------------------------------------------------------------------------


async def test_a_presence_channel_is_signed_with_the_keys_name_as_its_user(rig: Rig) -> None:
    answer = (await authorize(rig, "presence-account.helio.demo")).json()
    assert json.loads(answer["channel_data"]) == {"user_id": "demo", "user_info": {}}
    assert vouched(answer, "1.2", "presence-account.helio.demo") == "demo"


@pytest.mark.parametrize(
    "channel", ["private-account.helio.demo", "private-quote.acme.ES", "private-cache-quote.acme.ES"]
)
async def test_a_private_channel_is_signed_without_data(rig: Rig, channel: str) -> None:
    answer = (await authorize(rig, channel)).json()
    assert set(answer) == {"auth"}
    assert vouched(answer, "1.2", channel) == "demo"
    assert vouched(answer, "1.3", channel) is None


async def test_what_is_signed_is_what_the_hub_accepts(rig: Rig) -> None:
    subscriber = rig.connect()
    form = {"socket_id": subscriber.socket_id, "channel_name": "presence-account.helio.demo"}
    answer = (await rig.http.post("/api/v2/ws/auth", data=form, headers=BEARER)).json()
    subscriber.say("pusher:subscribe", {"channel": form["channel_name"], **answer})
    assert [message["event"] for message in subscriber.heard()] == ["pusher_internal:subscription_succeeded"]


async def test_json_is_accepted_too(rig: Rig) -> None:
    body = {"socket_id": "1.2", "channel_name": "private-account.helio.demo"}
    assert (await rig.http.post("/api/v2/ws/auth", json=body, headers=BEARER)).status_code == 200


@pytest.mark.parametrize(
    ("channel", "headers"),
    [
        ("private-account.helio.live", BEARER),
        ("presence-account.helio.demo", NARROW),
        ("private-quote.acme.ES", NARROW),
        ("private-of-the-application", BEARER),
        ("private-encrypted-x", BEARER),
        ("private-account.helio", BEARER),
    ],
)
async def test_a_channel_the_key_may_not_have_is_403(rig: Rig, channel: str, headers: dict[str, str]) -> None:
    answer = await authorize(rig, channel, headers)
    assert answer.status_code == 403
    assert answer.json()["error"]["details"] == {"field": "channel_name"}
    assert "auth" not in answer.json()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "socket_id"),
        (b"socket_id=1.2", "channel_name"),
        (b"socket_id=x&channel_name=private-account.helio.demo", "socket_id"),
        (b"socket_id=1.2&channel_name=quote.helio.X", "channel_name"),
        (b"socket_id=1.2&channel_name=private-%20", "channel_name"),
        (b"socket_id=1.2&channel_name=private-" + b"x" * 164, "channel_name"),
        (b"socket_id=1.2&socket_id=1.3&channel_name=private-x", "socket_id"),
        (b"socket_id=1.2&channel_name=private-x&channel_name=private-account.helio.demo", "channel_name"),
        (b"socket_id=%ff&channel_name=x", "body"),
        (b"\xff", "body"),
        (b"&".join(b"a=b" for _ in range(20)), "body"),
    ],
)
async def test_a_malformed_authorization_request_is_400_with_the_field(rig: Rig, body: bytes, field: str) -> None:
    headers = {**BEARER, "Content-Type": "application/x-www-form-urlencoded"}
    answer = await rig.http.post("/api/v2/ws/auth", content=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["details"] == {"field": field}


async def test_a_plugin_may_overrule_the_configuration() -> None:
    grants = {"private-mine": Grant(True), "private-account.helio.demo": Grant(False, "frozen")}
    asked = []

    def decide(key: str, channel: str) -> Grant | None:
        asked.append((key, channel))
        return grants.get(channel)

    rig = Rig(authorize=decide)
    async with rig.http:
        assert (await authorize(rig, "private-mine")).status_code == 200
        refused = await authorize(rig, "private-account.helio.demo")
        assert refused.status_code == 403
        assert "frozen" in refused.json()["error"]["message"]
        assert (await authorize(rig, "presence-account.helio.demo")).status_code == 200
    assert asked[0] == ("demo", "private-mine")


# Apps ----------------------------------------------------------------------------------------------------------------


async def test_an_app_that_is_gone_or_disabled_gives_no_sessions(rig: Rig) -> None:
    rig.hub.replace_apps([OTHER], 0.0)
    assert (await session(rig)).status_code == 503
    disabled = Rig(ApiSettings(app_id="5"))
    async with disabled.http:
        assert (await session(disabled)).status_code == 403
        assert (await authorize(disabled, "private-account.helio.demo")).status_code == 403


# Pages of other origins ----------------------------------------------------------------------------------------------

GOOD = "https://good.example"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}


async def test_a_page_of_an_allowed_origin_may_ask(rig: Rig) -> None:
    preflight = await rig.http.options("/api/v2/ws/auth", headers={"Origin": GOOD, **PREFLIGHT})
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == GOOD
    assert "Authorization" in preflight.headers["access-control-allow-headers"]
    for headers in (BEARER, {}):
        answer = await session(rig, headers={**headers, "Origin": GOOD})
        assert answer.headers["access-control-allow-origin"] == GOOD
        assert "Idempotent-Replayed" in answer.headers["access-control-expose-headers"]
        assert "Origin" in answer.headers["vary"]
        assert "access-control-allow-credentials" not in answer.headers


async def test_a_page_of_another_origin_may_not(rig: Rig) -> None:
    evil = {"Origin": "https://good.example.evil.example"}
    assert (await rig.http.options("/api/v2/ws/auth", headers={**evil, **PREFLIGHT})).status_code == 403
    assert "access-control-allow-origin" not in (await session(rig, headers={**BEARER, **evil})).headers


async def test_the_signed_api_is_not_for_pages(rig: Rig) -> None:
    answer = await rig.http.get("/apps/3/channels", headers={"Origin": GOOD})
    assert "access-control-allow-origin" not in answer.headers


async def test_the_catalog_and_sessions_have_a_price(rig: Rig) -> None:
    rig.hub.budgets.take("key demo", 1e6, rig.now)
    answer = await rig.http.get("/api/v2/ws/streams", headers=BEARER)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "RATE_LIMITED")
    assert (await session(rig)).status_code == 429
