"""Gate for tickrelay."""

from relay.adapter import Adapter
from relay.plugins.hookspecs import hookimpl
from relay_gateio.adapter import GateIo


@hookimpl
def relay_adapters() -> list[type[Adapter]]:
    return [GateIo]
