"""Helio for tickrelay."""

from relay.adapter import Adapter
from relay.hooks import hookimpl
from relay_helio.adapter import Helio


@hookimpl
def relay_adapters() -> list[type[Adapter]]:
    return [Helio]
