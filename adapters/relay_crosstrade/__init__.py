"""CrossTrade for tickrelay."""

from relay.adapter import Adapter
from relay.plugins.hookspecs import Simulated, hookimpl
from relay_crosstrade.adapter import CrossTrade


@hookimpl
def relay_adapters() -> list[type[Adapter]]:
    return [CrossTrade]


@hookimpl
def relay_simulators() -> list[Simulated]:
    from relay_crosstrade.simulator import SIMULATED  # only the demo needs it

    return [SIMULATED]
