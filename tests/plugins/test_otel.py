"""relay_otel: spans of commands and of connections, in memory and to a collector."""

import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
import trio

from relay.demo import provider_table
from relay.plugins import Service, TappedSession, Traffic, hookimpl
from relay.plugins.hookspecs import AnsweredCommand
from relay_helio.simulator import SIMULATED, HelioSimulator
from relay_otel import relay_check_settings, relay_services
from relay_otel.table import OtelTable
from support.deadlines import WITHIN
from support.running import API_KEY, port_of, running_relay
from support.tools import missing

try:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from relay_otel.spans import Spans, otlp
except ImportError:
    installed = False
else:
    installed = True


@pytest.fixture(autouse=True)
def packages() -> None:
    """Skip, or fail where CI requires it, without the packages of OpenTelemetry."""
    if not installed:
        missing("OpenTelemetry", "pip install 'tickrelay[otel]'")


SESSION = TappedSession("helio", "main", 1, lambda text: text.replace("hunter2", "*"))
COMMAND = AnsweredCommand(
    provider="helio", account="main", id="c1", name="place_order", api_key="desk", outcome="unknown",
    error_code="deadline", taken_unix_ns=1_000_000_000, answered_unix_ns=3_500_000_000,
)  # fmt: skip


def in_memory(**table: Any) -> "tuple[Spans, InMemorySpanExporter]":
    exporter = InMemorySpanExporter()
    return Spans(OtelTable(endpoint="http://collector", **table), SimpleSpanProcessor(exporter)), exporter


def told(span: "ReadableSpan") -> dict[str, Any]:
    return {name.removeprefix("tickrelay."): value for name, value in (span.attributes or {}).items()}


def test_a_command_is_a_span_as_long_as_it_took() -> None:
    spans, exporter = in_memory()
    spans.take_command(COMMAND)
    (span,) = exporter.get_finished_spans()
    assert (span.name, span.start_time, span.end_time) == ("command place_order", 1_000_000_000, 3_500_000_000)
    assert told(span) == {"provider": "helio", "account": "main", "api_key": "desk", "command.id": "c1",
                          "command.outcome": "unknown", "error.type": "deadline"}  # fmt: skip
    assert not span.status.is_ok
    assert span.resource.attributes["service.name"] == "tickrelay"


def test_a_connection_is_a_span_without_secrets() -> None:
    spans, exporter = in_memory()
    take = spans.tap_session(SESSION)
    assert take is not None
    take(Traffic("open", 10, url="wss://broker.example/ws?token=hunter2"))
    take(Traffic("out", 11, "hunter2"))
    take(Traffic("in", 12, "{}"))
    take(Traffic("http", 13, "no", url="https://broker.example/orders", status=503))
    take(Traffic("http", 14, "[]", url="https://broker.example/orders", status=200))
    take(Traffic("close", 20, "bad token hunter2", status=1008))
    take(Traffic("close", 30, "no connection: refused", status=1006))
    lost, refused = exporter.get_finished_spans()
    assert (lost.name, lost.start_time, lost.end_time, lost.status.description) == (
        "session helio",
        10,
        20,
        "bad token *",
    )
    assert told(lost) == {"provider": "helio", "account": "main", "connection": 1, "server.address": "broker.example",
                          "close.code": 1008, "messages.received": 1, "messages.sent": 1}  # fmt: skip
    assert [(event.name, event.timestamp) for event in lost.events] == [("request failed", 13)]
    assert (refused.start_time, refused.end_time, refused.status.is_ok) == (30, 30, False)
    assert "hunter2" not in lost.to_json()


def test_what_is_turned_off_is_not_tapped() -> None:
    spans, exporter = in_memory(sessions=False, commands=False)
    spans.take_command(COMMAND)
    assert spans.tap_session(SESSION) is None
    assert not exporter.get_finished_spans()
    assert list(relay_services({})) == []
    with pytest.raises(ValueError, match="OTEL_EXPORTER_OTLP_HEADERS"):
        OtelTable(endpoint="http://user:secret@collector")
    relay_check_settings({"otel": OtelTable(endpoint="http://collector")})


async def test_the_spans_of_a_running_relay() -> None:
    spans, exporter = in_memory()

    class Plugin:
        @hookimpl
        def relay_services(self) -> Iterable[Service]:
            return [Service("spans", spans.run, tap_frames=spans.tap_session, tap_commands=spans.take_command)]

    simulator = HelioSimulator(seed=1)
    async with simulator.serve() as address:
        helio = {**provider_table(SIMULATED, address.ws, address.http), "pinned": ["account main"]}
        keys = {"desk": {"key": API_KEY, "trade": ["helio.main"]}}
        async with running_relay({"helio": helio}, stranger=Plugin(), api_keys=keys) as relay:
            with trio.fail_after(WITHIN):
                while relay.providers.statuses()[0]["state"] != "up":
                    await trio.sleep(0.01)
                base, headers = f"http://127.0.0.1:{port_of(relay)}", {"Authorization": f"Bearer {API_KEY}"}
                async with httpx.AsyncClient(base_url=base, headers=headers, timeout=WITHIN) as http:
                    for quantity in ("1", "100000000000"):
                        order = {"symbol": "EUR/USD", "side": "BUY", "order_type": "MARKET", "quantity": quantity}
                        command = {"provider": "helio", "command": "place_order", "account": "main", **order}
                        assert "outcome" in (await http.post("/api/v2/commands", json=command)).json()
                assert [span.name for span in exporter.get_finished_spans()] == ["command place_order"] * 2
    *commands, session = exporter.get_finished_spans()
    accepted, rejected = map(told, commands)
    assert (accepted["account"], accepted["api_key"], accepted["command.outcome"]) == ("main", "desk", "accepted")
    assert (rejected["command.outcome"], rejected["error.type"]) == ("rejected", "insufficient_margin")
    assert commands[0].start_time is not None
    assert commands[0].end_time is not None
    assert 0 <= commands[0].end_time - commands[0].start_time < 60e9
    assert (session.name, session.status.is_ok) == ("session helio", True)
    assert told(session)["messages.received"] > 0


async def test_spans_reach_a_collector_over_http() -> None:
    bodies: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        table = OtelTable(endpoint=f"http://127.0.0.1:{server.server_address[1]}/", timeout=30)
        spans = Spans(table, otlp(table))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(spans.run, None)
            await trio.testing.wait_all_tasks_blocked()
            spans.take_command(COMMAND)
            nursery.cancel_scope.cancel()
        server.shutdown()
        thread.join()
    ((path, body),) = bodies
    assert path == "/v1/traces"
    (resource,) = ExportTraceServiceRequest.FromString(body).resource_spans
    assert [span.name for span in resource.scope_spans[0].spans] == ["command place_order"]
