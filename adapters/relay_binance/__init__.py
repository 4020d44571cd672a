"""Binance for tickrelay: spot, and USDⓈ-M futures."""

from relay.adapter import Adapter
from relay.plugins.hookspecs import hookimpl
from relay_binance.adapter import Binance
from relay_binance.futures import BinanceFutures


@hookimpl
def relay_adapters() -> list[type[Adapter]]:
    return [Binance, BinanceFutures]
