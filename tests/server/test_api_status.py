"""Health, readiness, state, metrics, schemas, pages."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from relay.histogram import Histogram
from relay.model.enums import StalenessEvent
from relay.model.events import Account, Quote, Staleness, Stamp
from relay.server.api.channels import ApiSettings
from relay.server.api.metrics import Measured
from support.api_harness import BEARER, Exchange, Rig

STAMP = Stamp(provider="helio", account="demo", received_at="2025-01-15T10:30:00.120Z")
COUNTERS = {
    "messages": 9,
    "received": 8,
    "published": 5,
    "deduped": 1,
    "unknown": 2,
    "raised": 3,
    "dropped": {"book": 4},
    "samples": [{"raw": "a fill of somebody's", "why": "?", "received_at": "2025-01-15T10:30:00Z"}],
}


def session(state: str = "up", **more: Any) -> dict[str, Any]:
    """Return a status as of `SessionMachine.status`, as far as it matters here."""
    own = {"provider": "helio", "account": "demo", "state": state, "reason": None, "counters": COUNTERS}
    return {**own, "required": True, **more}


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    rig.sessions = [session()]
    async with rig.http:
        yield rig


Figures = dict[tuple[str, frozenset[str]], float]


async def figures(rig: Rig) -> Figures:
    answer = await rig.http.get("/metrics", headers=BEARER)
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = text_string_to_metric_families(answer.text)
    return {(s.name, frozenset(s.labels.values())): s.value for family in families for s in family.samples}


async def test_health_needs_nothing_but_the_process(rig: Rig) -> None:
    rig.sessions = [session("failed")]
    assert (await rig.http.get("/healthz")).json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("sessions", "status"),
    [
        ([], 200),
        ([session()], 200),
        ([session(), session("waiting", required=False)], 200),
        ([session(), session("opening", provider="binance", account=None)], 503),
        ([session("failed")], 503),
    ],
)
async def test_ready_when_every_required_session_is_connected(
    rig: Rig, sessions: list[dict[str, Any]], status: int
) -> None:
    rig.sessions = sessions
    assert (await rig.http.get("/readyz")).status_code == status


async def test_not_ready_says_which(rig: Rig) -> None:
    rig.sessions = [session(), session("waiting", provider="binance", account=None, reason="closed 1006")]
    waiting = [{"provider": "binance", "state": "RECONNECTING"}]
    assert (await rig.http.get("/readyz")).json() == {"status": "not ready", "waiting": waiting}


async def test_ready_names_what_is_unusable(rig: Rig) -> None:
    rig.sessions = [session(), session("failed", provider="binance", account=None, required=False)]
    rig.hub.publish(Quote(symbol="EUR/USD", bid="1"), STAMP, 0.0)
    rig.hub.publish(Staleness(event=StalenessEvent.STALE, of="quote", symbols=("EUR/USD",)), STAMP, 0.0)
    lost = {"provider": "binance", "state": "FAILED"}
    answer = await rig.http.get("/readyz")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ready",
        "unusable": [lost, {"provider": "helio", "kind": "quote", "streams": 1}],
    }
    rig.hub.publish(Staleness(event=StalenessEvent.FRESH, of="quote", symbols=("EUR/USD",)), STAMP, 0.5)
    rig.now = 1.5
    assert (await rig.http.get("/readyz")).json() == {"status": "ready", "unusable": [lost]}


async def test_a_session_without_required_is_not(rig: Rig) -> None:
    rig.sessions = [{"provider": "x", "account": None, "state": "failed", "reason": None}]
    assert (await rig.http.get("/readyz")).status_code == 200


async def test_the_state_is_what_the_dashboard_needs(rig: Rig) -> None:
    state = (await rig.http.get("/api/v2/status", headers=BEARER)).json()
    assert (state["version"], state["app_key"], state["ready"]) == ("1.2.3", "278d425bdf160c739803", True)
    (shown,) = state["sessions"]
    assert (shown["provider"], shown["account"], shown["state"], shown["life"]) == ("helio", "demo", "CONNECTED", "up")
    assert (shown["received"], shown["published"], shown["unknown"]) == (8, 5, 2)
    helio, binance = ["quote", "candle"], ["quote"]
    assert state["quotes"] == [
        {"provider": "helio", "symbol": "EUR/USD", "channel": "quote.helio.EUR-USD", "kinds": helio},
        {"provider": "helio", "symbol": "BTC/USD", "channel": "quote.helio.BTC-USD", "kinds": helio},
        {"provider": "binance", "symbol": "BTC/USDT", "channel": "quote.binance.BTC-USDT", "kinds": binance},
    ]


async def test_only_a_key_sees_names_and_samples(rig: Rig) -> None:
    rig.connect("private-nothing", "room-of-alice")
    rig.hub.publish(Account(event="BALANCE_UPDATED", balance="1"), STAMP, 0.0)
    rig.hub.publish(Quote(symbol="EUR/USD", bid="1"), STAMP, 0.0)
    everybody = await rig.http.get("/api/v2/status")
    by_key = await rig.http.get("/api/v2/status", headers=BEARER)
    for secret in ("a fill of somebody's", "room-of-alice", '"account"'):
        assert secret in by_key.text
    assert "somebody" not in everybody.text
    assert "alice" not in everybody.text
    assert [stream["kind"] for stream in everybody.json()["hub"]["streams"]] == ["quote"]
    assert everybody.json()["hub"]["apps"]["3"]["channels"] == 1
    wrong = await rig.http.get("/api/v2/status", headers={"Authorization": "Bearer wrong"})
    assert wrong.status_code == 401


async def test_state_and_metrics_need_a_key_unless_they_are_public() -> None:
    rig = Rig(ApiSettings(app_id="3"))
    async with rig.http:
        for path in ("/api/v2/status", "/metrics"):
            assert (await rig.http.get(path)).status_code == 401
            assert (await rig.http.get(path, headers=BEARER)).status_code == 200
        for path in ("/healthz", "/readyz", "/schemas/quote.json", "/api/v2/asyncapi.json"):
            assert (await rig.http.get(path)).status_code == 200


async def test_metrics_are_the_state_in_figures(rig: Rig) -> None:
    rig.sessions.append(session("waiting", provider="binance", account=None, counters={**COUNTERS, "unknown": 0}))
    rig.connect("quote.helio.EUR-USD", "room")
    for _ in range(3):
        rig.hub.publish(Quote(symbol="EUR/USD", bid="1"), STAMP, 0.0)
    got = await figures(rig)
    assert got["tickrelay_info", frozenset({"1.2.3"})] == 1
    assert got["tickrelay_session_state", frozenset({"helio", "demo", "CONNECTED"})] == 1
    assert got["tickrelay_session_state", frozenset({"helio", "demo", "FAILED"})] == 0
    assert got["tickrelay_session_state", frozenset({"binance", "", "RECONNECTING"})] == 1
    assert got["tickrelay_session_received_total", frozenset({"helio", "demo"})] == 8
    assert got["tickrelay_session_unknown_total", frozenset({"helio", "demo"})] == 2
    assert got["tickrelay_session_unknown_total", frozenset({"binance", ""})] == 0
    assert got["tickrelay_session_dropped_total", frozenset({"helio", "demo", "book"})] == 4
    assert got["tickrelay_events_published_total", frozenset({"quote"})] == 3
    assert got["tickrelay_stream_subscribers", frozenset({"helio", "quote"})] == 1
    assert got["tickrelay_connections", frozenset({"3"})] == 1
    assert got["tickrelay_channels", frozenset({"3"})] == 2
    assert got["tickrelay_subscriptions", frozenset({"3"})] == 2
    assert got["tickrelay_connections", frozenset({"4"})] == 0


async def test_metrics_of_a_session_tell_its_age_budgets_and_topics(rig: Rig) -> None:
    about = {"last_event_at": "2025-01-15T10:30:00.500000Z", "budget": {"call": 3}, "budget_limits": {"call": 10}}
    rig.sessions = [session(**about, topics={"pending": 2, "troubled": [{"kind": "quote"}]}, queued=4)]
    got = await figures(rig)
    assert got["tickrelay_session_last_event_timestamp_seconds", frozenset({"helio", "demo"})] == 1736937000.5
    assert got["tickrelay_session_budget_remaining", frozenset({"helio", "demo", "call"})] == 3
    assert got["tickrelay_session_budget_limit", frozenset({"helio", "demo", "call"})] == 10
    assert got["tickrelay_session_topics", frozenset({"helio", "demo", "pending"})] == 2
    assert got["tickrelay_session_queued", frozenset({"helio", "demo"})] == 4


async def test_durations_are_histograms_with_the_buckets_that_prometheus_expects() -> None:
    written, ordered = Histogram(), Histogram()
    written.observe(0.0002, 3)
    written.observe(60)
    ordered.observe(0.5)
    rig = Rig(measured=Measured(publish_to_write=written, command_durations={("helio", "accepted"): ordered}))
    async with rig.http:
        got = await figures(rig)
    buckets = {
        labels: count for (name, labels), count in got.items() if name == "tickrelay_publish_to_write_seconds_bucket"
    }
    assert [buckets[frozenset({bound})] for bound in ("0.0001", "0.00025", "10.0", "+Inf")] == [0, 3, 3, 4]
    assert got["tickrelay_publish_to_write_seconds_sum", frozenset()] == pytest.approx(60.0006)
    assert got["tickrelay_command_duration_seconds_bucket", frozenset({"helio", "accepted", "0.5"})] == 1


async def test_two_relays_in_one_process_do_not_mix(rig: Rig) -> None:
    other = Rig()
    async with other.http:
        rig.hub.publish(Quote(symbol="EUR/USD", bid="1"), STAMP, 0.0)
        assert ("tickrelay_events_published_total", frozenset({"quote"})) not in await figures(other)


async def test_metrics_go_into_the_registry_that_is_given() -> None:
    registry = CollectorRegistry()
    rig = Rig(registry=registry)
    assert registry.get_sample_value("tickrelay_connections", {"app": "3"}) == 0
    await rig.http.aclose()


async def test_the_asyncapi_document_has_the_relays_address(rig: Rig) -> None:
    document = (await rig.http.get("/api/v2/asyncapi.json")).json()
    assert document["servers"]["relay"]["host"] == "relay.test:6001"
    assert document["info"]["version"] == "1.2.3"


async def test_a_schema_names_itself_and_a_wrong_kind_gets_the_right_ones(rig: Rig) -> None:
    answer = await rig.http.get("/schemas/quote.json")
    assert answer.headers["content-type"] == "application/schema+json"
    assert answer.json()["$id"] == "http://relay.test:6001/schemas/quote.json"
    missing = await rig.http.get("/schemas/price.json")
    assert missing.status_code == 404
    assert "quote" in missing.json()["error"]


async def test_a_fault_of_ours_is_a_500_in_json_and_reaches_the_log(rig: Rig) -> None:
    rig.sessions = [{"provider": "secret"}]
    exchange = Exchange()
    with pytest.raises(KeyError):
        await exchange.ask(rig, "GET", "/api/v2/status")
    assert exchange.status == 500
    assert b"INTERNAL_ERROR" in exchange.body
    assert b"secret" not in exchange.body


# Pages ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def pages(tmp_path: Path) -> AsyncIterator[Rig]:
    web = tmp_path / "web"
    (web / "vendor").mkdir(parents=True)
    (web / "index.html").write_text("<title>tickrelay</title>")
    (web / "vendor" / "a.js").write_text("1")
    (web / "a.css").write_text("b{}")
    (tmp_path / "secret.txt").write_text("top secret")
    rig = Rig(web=web)
    async with rig.http:
        yield rig


@pytest.mark.parametrize(
    ("path", "kind"), [("/", "text/html"), ("/vendor/a.js", "text/javascript"), ("/a.css", "text/css")]
)
async def test_files_have_their_type_and_are_asked_for_again(pages: Rig, path: str, kind: str) -> None:
    answer = await pages.http.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(kind)
    assert answer.headers["cache-control"] == "no-cache"
    again = await pages.http.get(path, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    head = await pages.http.head(path)
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize(
    "path",
    ["/../secret.txt", "/%2e%2e/secret.txt", "/vendor/../../secret.txt", "/..%2fsecret.txt", "/%00", "/vendor/%00.js",  "//etc/passwd", "/nothing", "/..%5csecret.txt", "/" + "x" * 5000],
)  # fmt: skip
async def test_nothing_outside_the_directory_is_served(pages: Rig, path: str) -> None:
    exchange = Exchange()
    await exchange.ask(pages, "GET", path)
    assert exchange.status in (400, 404)
    assert b"top secret" not in exchange.body


async def test_pages_are_only_read(pages: Rig) -> None:
    assert (await pages.http.post("/")).status_code == 405
    assert (await pages.http.post("/healthz")).status_code == 405


async def test_the_dashboard_that_is_shipped_is_served(rig: Rig) -> None:
    answer = await rig.http.get("/")
    assert answer.status_code == 200
    assert "tickrelay" in answer.text
