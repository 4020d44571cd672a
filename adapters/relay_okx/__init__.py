"""OKX for tickrelay."""

from relay.adapter import Adapter
from relay.plugins.hookspecs import hookimpl
from relay_okx.adapter import Okx


@hookimpl
def relay_adapters() -> list[type[Adapter]]:
    return [Okx]
