"""CrossTrade for tickrelay."""

from relay.adapter import Adapter
from relay.plugins.hookspecs import Simulated, hookimpl
from relay_crosstrade.adapter import CrossTrade


@hookimpl
def relay_adapters() -> list[type[Adapter]]:
    return [CrossTrade]


@hookimpl
def relay_simulators() -> list[Simulated]:
    from relay_crosstrade import simulator  # only the demo needs it

    return [
        Simulated(
            provider="crosstrade",
            adapter="crosstrade",
            run=simulator.run,
            credentials={"key": simulator.KEY},
            account="Sim101",
            pinned=("quote ES 09-26", "account Sim101"),
        )
    ]
