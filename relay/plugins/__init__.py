"""Plugins: their hooks (`relay.plugins.hookspecs`) and the manager that loads them (`relay.plugins.manager`)."""

from relay.plugins.hookspecs import (
    ChannelEvent,
    FrameTap,
    Grant,
    RelayApi,
    Service,
    Simulated,
    Tap,
    TappedSession,
    Traffic,
    Transform,
    Watcher,
    hookimpl,
    hookspec,
)

__all__ = [
    "ChannelEvent",
    "FrameTap",
    "Grant",
    "RelayApi",
    "Service",
    "Simulated",
    "Tap",
    "TappedSession",
    "Traffic",
    "Transform",
    "Watcher",
    "hookimpl",
    "hookspec",
]
