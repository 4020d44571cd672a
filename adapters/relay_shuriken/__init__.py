"""Shuriken for tickrelay."""

from relay.adapter import Adapter
from relay.plugins.hookspecs import Simulated, hookimpl
from relay_shuriken.adapter import Shuriken


@hookimpl
def relay_adapters() -> list[type[Adapter]]:
    return [Shuriken]


@hookimpl
def relay_simulators() -> list[Simulated]:
    from relay_shuriken.simulator import SIMULATED  # only the demo needs it

    return [SIMULATED]
