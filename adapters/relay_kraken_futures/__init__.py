"""Kraken Futures for tickrelay."""

from relay.adapter import Adapter
from relay.plugins.hookspecs import hookimpl
from relay_kraken_futures.adapter import KrakenFutures


@hookimpl
def relay_adapters() -> list[type[Adapter]]:
    return [KrakenFutures]
