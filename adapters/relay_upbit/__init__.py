"""Upbit for tickrelay."""

from relay.adapter import Adapter
from relay.plugins.hookspecs import hookimpl
from relay_upbit.adapter import Upbit


@hookimpl
def relay_adapters() -> list[type[Adapter]]:
    return [Upbit]
