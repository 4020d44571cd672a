"""Tektii for tickrelay."""

from relay.adapter import Adapter
from relay.plugins.hookspecs import Simulated, hookimpl
from relay_tektii.adapter import Tektii


@hookimpl
def relay_adapters() -> list[type[Adapter]]:
    return [Tektii]


@hookimpl
def relay_simulators() -> list[Simulated]:
    from relay_tektii import simulator  # only the demo needs it

    return [
        Simulated(
            provider="tektii",
            adapter="tektii",
            run=simulator.run,
            credentials={"api_key": simulator.KEY},
            account="paper",
            pinned=("quote AAPL", "quote EUR/USD", "candle AAPL 1m", "account paper"),
        )
    ]
