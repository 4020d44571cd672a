"""Tektii for tickrelay."""

from relay.adapter import Adapter
from relay.plugins.hookspecs import Simulated, hookimpl
from relay_tektii.adapter import Tektii


@hookimpl
def relay_adapters() -> list[type[Adapter]]:
    return [Tektii]


@hookimpl
def relay_simulators() -> list[Simulated]:
    from relay_tektii.simulator import SIMULATED  # only the demo needs it

    return [SIMULATED]
