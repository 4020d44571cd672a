"""Helio for tickrelay."""

from relay.adapter import Adapter
from relay.plugins.hookspecs import Simulated, hookimpl
from relay_helio.adapter import Helio


@hookimpl
def relay_adapters() -> list[type[Adapter]]:
    return [Helio]


@hookimpl
def relay_simulators() -> list[Simulated]:
    from relay_helio import simulator  # only the demo needs it

    return [
        Simulated(
            provider="helio",
            adapter="helio",
            run=simulator.run,
            credentials={"email": simulator.EMAIL, "password": simulator.PASSWORD},
            account="main",
            options={"portfolio": "whole"},
            symbols={"EURUSD": "EUR/USD", "GBPUSD": "GBP/USD", "USDJPY": "USD/JPY", "XAUUSD": "XAU/USD"},
            pinned=("quote EUR/USD", "account main"),
        )
    ]
