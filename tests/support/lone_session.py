"""A provider session without a relay: it settles its own replies."""

from collections.abc import Callable
from typing import Any

from relay.adapter import Adapter, Context
from relay.model.events import Event, Reply, Stamp
from relay.provider.driver import ProviderSession
from relay.trading.registry import CommandRegistry


def lone_session(
    adapter: type[Adapter], context: Context, *, publish: Callable[[Event, Stamp], object], **options: Any
) -> ProviderSession:
    """Make a session with a registry of its own; `publish` gets what a relay would publish."""
    registry = CommandRegistry()

    def settled(event: Event, stamp: Stamp, now: float) -> None:
        publish(event, stamp)
        if isinstance(event, Reply):
            registry.settle(event, stamp, now)

    return ProviderSession(adapter, context, publish=settled, commands=registry, **options)
