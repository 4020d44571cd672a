"""Alpaca for tickrelay."""

from relay.adapter import Adapter
from relay.plugins.hookspecs import Simulated, hookimpl
from relay_alpaca.adapter import Alpaca


@hookimpl
def relay_adapters() -> list[type[Adapter]]:
    return [Alpaca]


@hookimpl
def relay_simulators() -> list[Simulated]:
    from relay_alpaca.simulator import SIMULATED  # only the demo needs it

    return [SIMULATED]
