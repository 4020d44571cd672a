"""Shuriken for tickrelay."""

from relay.adapter import Adapter
from relay.plugins.hookspecs import Simulated, hookimpl
from relay_shuriken.adapter import Shuriken


@hookimpl
def relay_adapters() -> list[type[Adapter]]:
    return [Shuriken]


@hookimpl
def relay_simulators() -> list[Simulated]:
    from relay_shuriken import simulator  # only the demo needs it

    return [
        Simulated(
            provider="shuriken",
            adapter="shuriken",
            run=simulator.run,
            credentials={"key": simulator.KEY},
            account="main",
            options={"profiles": simulator.PROFILE, "feeds": simulator.FEED},
            pinned=(f"public_trade {simulator.BONK}", f"reference {simulator.BONK}", "signal global", "account main"),
        )
    ]
