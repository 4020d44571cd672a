"""ScaleTrade for tickrelay."""

from relay.adapter import Adapter
from relay.plugins.hookspecs import Simulated, hookimpl
from relay_scaletrade.adapter import ScaleTrade


@hookimpl
def relay_adapters() -> list[type[Adapter]]:
    return [ScaleTrade]


@hookimpl
def relay_simulators() -> list[Simulated]:
    from relay_scaletrade.simulator import SIMULATED  # only the demo needs it

    return [SIMULATED]
