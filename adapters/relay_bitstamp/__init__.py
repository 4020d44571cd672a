"""Bitstamp for tickrelay."""

from relay.adapter import Adapter
from relay.plugins.hookspecs import hookimpl
from relay_bitstamp.adapter import Bitstamp


@hookimpl
def relay_adapters() -> list[type[Adapter]]:
    return [Bitstamp]
