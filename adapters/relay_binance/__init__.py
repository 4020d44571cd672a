"""Binance for tickrelay."""

from relay.adapter import Adapter
from relay.plugins.hookspecs import hookimpl
from relay_binance.adapter import Binance


@hookimpl
def relay_adapters() -> list[type[Adapter]]:
    return [Binance]
