"""Bybit for tickrelay."""

from relay.adapter import Adapter
from relay.plugins.hookspecs import hookimpl
from relay_bybit.adapter import Bybit


@hookimpl
def relay_adapters() -> list[type[Adapter]]:
    return [Bybit]
