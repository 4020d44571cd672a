"""Coinbase Exchange for tickrelay."""

from relay.adapter import Adapter
from relay.plugins.hookspecs import hookimpl
from relay_coinbase.adapter import Coinbase


@hookimpl
def relay_adapters() -> list[type[Adapter]]:
    return [Coinbase]
