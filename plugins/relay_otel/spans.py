"""Make the spans from what the relay hands to taps, and send them from the thread of OpenTelemetry's batch processor.

Times are those of the relay, so a span is as long as what it stands for. Nothing secret is in a span: of a
URL only the host, and of reasons nothing that the session's mask takes out.
"""

from functools import partial
from urllib.parse import urlsplit

import trio
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from relay.plugins import FrameTap, RelayApi, TappedSession, Traffic
from relay.plugins.hookspecs import AnsweredCommand
from relay_otel.table import OtelTable

_REFUSED = 400
#: Events of a span: a session that fails for hours must not fill the memory.
_MOST_EVENTS = 100


def otlp(table: OtelTable) -> SpanProcessor:
    """Return what sends finished spans to the configured collector, in a thread of its own."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    exporter = OTLPSpanExporter(endpoint=f"{table.endpoint.rstrip('/')}/v1/traces", timeout=table.timeout)
    batch = min(512, table.queue_spans)
    return BatchSpanProcessor(exporter, max_queue_size=table.queue_spans, max_export_batch_size=batch)


class Spans:
    """The spans of one relay, which ``processor`` gets when they have ended."""

    def __init__(self, table: OtelTable, processor: SpanProcessor) -> None:
        self._table = table
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": table.service_name}), shutdown_on_exit=False
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("tickrelay")
        self._sessions: list[_SessionSpans] = []

    async def run(self, relay: RelayApi) -> None:
        """Wait for the end of the relay; then end the spans of open connections and send what waits."""
        try:
            await trio.sleep_forever()
        finally:
            for session in self._sessions:
                session.end()
            with trio.move_on_after(self._table.timeout, shield=True):
                # The thread is left behind where the collector does not answer in time.
                await trio.to_thread.run_sync(self._provider.shutdown, abandon_on_cancel=True)

    def take_command(self, command: AnsweredCommand) -> None:
        """Make the span of a command that has its reply."""
        if not self._table.commands:
            return
        attributes = {
            "tickrelay.provider": command.provider,
            "tickrelay.account": command.account or "",
            "tickrelay.api_key": command.api_key,
            "tickrelay.command.id": command.id,
            "tickrelay.command.outcome": command.outcome,
        }
        if command.error_code:
            attributes["error.type"] = command.error_code
        span = self._tracer.start_span(
            f"command {command.name}", kind=SpanKind.CLIENT, attributes=attributes, start_time=command.taken_unix_ns
        )
        if command.outcome != "accepted":
            span.set_status(Status(StatusCode.ERROR, command.error_code or command.outcome))
        span.end(command.answered_unix_ns)

    def tap_session(self, session: TappedSession) -> FrameTap | None:
        """Return the tap that makes the spans of a session's connections."""
        if not self._table.sessions:
            return None
        spans = _SessionSpans(session, self)
        self._sessions.append(spans)
        return spans.take

    def start(self, session: TappedSession, unix_ns: int) -> Span:
        """Begin the span of a connection."""
        attributes: dict[str, str | int] = {
            "tickrelay.provider": session.provider,
            "tickrelay.account": session.account or "",
            "tickrelay.connection": session.connection,
        }
        start = partial(self._tracer.start_span, kind=SpanKind.CLIENT, attributes=attributes, start_time=unix_ns)
        return start(f"session {session.provider}")


class _SessionSpans:
    """The spans of one connection of a session, one after the other."""

    def __init__(self, session: TappedSession, spans: Spans) -> None:
        self._session = session
        self._spans = spans
        self._open: Span | None = None
        self._received = self._sent = self._events = 0

    def take(self, traffic: Traffic) -> None:
        """Begin a span with a connection that opens, and end it with its end; a dial that fails is a span too."""
        match traffic.direction:
            case "in":
                self._received += 1
            case "out":
                self._sent += 1
            case "open":
                self.end()
                self._open = self._spans.start(self._session, traffic.unix_ns)
                self._open.set_attribute("server.address", urlsplit(traffic.url).hostname or "")
            case "close":
                self._close(traffic)
            case "http" if self._open is not None and not 0 < traffic.status < _REFUSED and self._events < _MOST_EVENTS:
                self._events += 1
                about: dict[str, str | int] = {
                    "http.response.status_code": traffic.status,
                    "http.request.method": traffic.method,
                }
                self._open.add_event("request failed", about, traffic.unix_ns)

    def _close(self, traffic: Traffic) -> None:
        span = self._open or self._spans.start(self._session, traffic.unix_ns)
        span.set_attribute("tickrelay.close.code", traffic.status)
        if not traffic.own:
            span.set_status(Status(StatusCode.ERROR, self._session.mask(traffic.data)[:500]))
        self._open = span
        self.end(traffic.unix_ns)

    def end(self, unix_ns: int | None = None) -> None:
        """End the span of the connection, now if no time is given; nothing where there is none."""
        if self._open is not None:
            self._open.set_attribute("tickrelay.messages.received", self._received)
            self._open.set_attribute("tickrelay.messages.sent", self._sent)
            self._open.end(unix_ns)
        self._open = None
        self._received = self._sent = self._events = 0
