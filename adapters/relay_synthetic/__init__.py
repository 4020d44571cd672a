"""A synthetic venue for tickrelay: a market that never closes, for demos, load and trying things out."""

from relay.adapter import Adapter
from relay.plugins.hookspecs import Simulated, hookimpl
from relay_synthetic.adapter import Synthetic


@hookimpl
def relay_adapters() -> list[type[Adapter]]:
    return [Synthetic]


@hookimpl
def relay_simulators() -> list[Simulated]:
    from relay_synthetic import simulator  # only the demo needs it

    return [Simulated(provider="synthetic", adapter="synthetic", run=simulator.run, pinned=("quote BTC/USD",))]
