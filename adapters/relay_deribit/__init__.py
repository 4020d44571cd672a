"""Deribit for tickrelay."""

from relay.adapter import Adapter
from relay.plugins.hookspecs import hookimpl
from relay_deribit.adapter import Deribit


@hookimpl
def relay_adapters() -> list[type[Adapter]]:
    return [Deribit]
