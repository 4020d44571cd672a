"""Plugins: their hooks (`relay.plugins.hookspecs`) and the manager that loads them (`relay.plugins.manager`)."""

from relay.plugins.hookspecs import (
    ChannelEvent,
    Grant,
    RelayApi,
    Service,
    Simulated,
    Tap,
    Transform,
    Watcher,
    hookimpl,
    hookspec,
)

__all__ = [
    "ChannelEvent",
    "Grant",
    "RelayApi",
    "Service",
    "Simulated",
    "Tap",
    "Transform",
    "Watcher",
    "hookimpl",
    "hookspec",
]
