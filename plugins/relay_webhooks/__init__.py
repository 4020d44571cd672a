"""Webhooks for tickrelay: send an app's server what happens on its channels, as Pusher does."""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from relay.plugins import Service, hookimpl
from relay_webhooks.delivery import Webhooks
from relay_webhooks.endpoints import Endpoint, check_apps, endpoints_of
from relay_webhooks.settings import WebhooksTable

TABLE = "webhooks"


@hookimpl
def relay_settings() -> Mapping[str, type]:
    return {TABLE: WebhooksTable}


@hookimpl
def relay_check_settings(settings: Mapping[str, Any], apps: Collection[str]) -> None:
    check_apps(_endpoints(settings.get(TABLE)), apps)


@hookimpl
def relay_services(settings: Mapping[str, Any]) -> Sequence[Service]:
    table: WebhooksTable = settings.get(TABLE) or WebhooksTable()
    endpoints = _endpoints(table)
    if not endpoints:
        return []
    webhooks = Webhooks(endpoints, leave_delay=table.leave_delay, drain=table.drain)
    return [
        Service(
            "webhooks",
            webhooks.run,
            watch=webhooks.watch,
            counts=webhooks.counts,
            levels=webhooks.levels,
            once=True,
        )
    ]


def _endpoints(table: WebhooksTable | None) -> Sequence[Endpoint]:
    """Return the endpoints with their secrets, read from the environment and from files."""
    return endpoints_of(table or WebhooksTable(), os.environ, Path.read_text)
