"""Helio for tickrelay."""

from relay.adapter import Adapter
from relay.plugins.hookspecs import Simulated, hookimpl
from relay_helio.adapter import Helio


@hookimpl
def relay_adapters() -> list[type[Adapter]]:
    return [Helio]


@hookimpl
def relay_simulators() -> list[Simulated]:
    from relay_helio.simulator import SIMULATED  # only the demo needs it

    return [SIMULATED]
