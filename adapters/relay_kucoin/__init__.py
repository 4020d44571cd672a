"""KuCoin for tickrelay."""

from relay.adapter import Adapter
from relay.plugins.hookspecs import hookimpl
from relay_kucoin.adapter import KuCoin


@hookimpl
def relay_adapters() -> list[type[Adapter]]:
    return [KuCoin]
