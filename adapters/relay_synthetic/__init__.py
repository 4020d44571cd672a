"""A synthetic venue for tickrelay: a market that never closes, for demos, load and trying things out."""

from relay.adapter import Adapter
from relay.plugins.hookspecs import Simulated, hookimpl
from relay_synthetic.adapter import Synthetic


@hookimpl
def relay_adapters() -> list[type[Adapter]]:
    return [Synthetic]


@hookimpl
def relay_simulators() -> list[Simulated]:
    from relay_synthetic.simulator import SIMULATED  # only the demo needs it

    return [SIMULATED]
