"""Bitfinex for tickrelay."""

from relay.adapter import Adapter
from relay.plugins.hookspecs import hookimpl
from relay_bitfinex.adapter import Bitfinex


@hookimpl
def relay_adapters() -> list[type[Adapter]]:
    return [Bitfinex]
