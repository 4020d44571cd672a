"""OpenTelemetry for tickrelay: a span for each trading command and for each connection with a provider."""

import importlib.util
from collections.abc import Iterable, Mapping
from typing import Any

from relay.plugins import Service, hookimpl
from relay_otel.table import OtelTable

TABLE = "otel"


@hookimpl
def relay_settings() -> Mapping[str, type]:
    return {TABLE: OtelTable}


@hookimpl
def relay_check_settings(settings: Mapping[str, Any]) -> None:
    if _table(settings).endpoint and importlib.util.find_spec("opentelemetry.exporter") is None:
        raise ValueError("otel.endpoint: needs the packages of OpenTelemetry: pip install 'tickrelay[otel]'")


@hookimpl
def relay_services(settings: Mapping[str, Any]) -> Iterable[Service]:
    table = _table(settings)
    if not table.endpoint:
        return []
    from relay_otel.spans import Spans, otlp

    spans = Spans(table, otlp(table))
    return [Service("spans", spans.run, tap_frames=spans.tap_session, tap_commands=spans.take_command)]


def _table(settings: Mapping[str, Any]) -> OtelTable:
    table: OtelTable = settings.get(TABLE) or OtelTable()
    return table
