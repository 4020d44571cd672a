"""ScaleTrade for tickrelay."""

from relay.adapter import Adapter
from relay.plugins.hookspecs import Simulated, hookimpl
from relay_scaletrade.adapter import ScaleTrade


@hookimpl
def relay_adapters() -> list[type[Adapter]]:
    return [ScaleTrade]


@hookimpl
def relay_simulators() -> list[Simulated]:
    from relay_scaletrade import simulator  # only the demo needs it

    return [
        Simulated(
            provider="scaletrade",
            adapter="scaletrade",
            run=simulator.run,
            credentials={"login": str(simulator.LOGIN), "password": simulator.PASSWORD},
            account="main",
            symbols={"EURUSD": "EUR/USD", "GBPUSD": "GBP/USD", "XAUUSD": "XAU/USD", "BTCUSD": "BTC/USD"},
            pinned=("quote EUR/USD", "account main"),
        )
    ]
