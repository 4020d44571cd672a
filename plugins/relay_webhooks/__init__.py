"""Webhooks for tickrelay: an application's server is told what happens on its channels, as Pusher does it."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from relay.plugins.hookspecs import Service, Watcher, hookimpl
from relay_webhooks.delivery import Webhooks
from relay_webhooks.endpoints import endpoints_of
from relay_webhooks.settings import WebhooksTable

TABLE = "webhooks"

#: What `relay_configure` made last. The hooks that follow hand out its methods and nothing else refers to this name, so
#: that two relays of one process do not meet in it.
_webhooks: Webhooks | None = None  # without an endpoint there is nothing to watch for


@hookimpl
def relay_settings() -> Mapping[str, type]:
    return {TABLE: WebhooksTable}


@hookimpl
def relay_configure(settings: Mapping[str, Any]) -> None:
    global _webhooks
    table: WebhooksTable = settings.get(TABLE) or WebhooksTable()
    endpoints = endpoints_of(table, os.environ, Path.read_text)
    _webhooks = Webhooks(endpoints, leave_delay=table.leave_delay, drain=table.drain) if endpoints else None


@hookimpl
def relay_watchers() -> Sequence[Watcher]:
    return [] if _webhooks is None else [_webhooks.watch]


@hookimpl
def relay_services() -> Sequence[Service]:
    return [] if _webhooks is None else [Service("webhooks", _webhooks.run)]
