"""Kraken for tickrelay."""

from relay.adapter import Adapter
from relay.plugins.hookspecs import hookimpl
from relay_kraken.adapter import Kraken


@hookimpl
def relay_adapters() -> list[type[Adapter]]:
    return [Kraken]
