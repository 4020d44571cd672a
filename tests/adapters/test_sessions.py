"""Each adapter with a simulator goes through the kit's table of faults: a session over a line that breaks in every way."""

from collections.abc import Callable
from functools import partial
from typing import Any

import attrs

import relay_alpaca.simulator
import relay_crosstrade.simulator
import relay_helio.simulator
import relay_scaletrade.simulator
import relay_shuriken.simulator
import relay_synthetic.simulator
import relay_tektii.simulator
from relay.testing import conformance
from relay.testing.simulator import Simulator
from relay_alpaca.adapter import Alpaca
from relay_crosstrade.adapter import CrossTrade
from relay_helio.adapter import Helio
from relay_scaletrade.adapter import ScaleTrade
from relay_shuriken.adapter import Shuriken
from relay_synthetic.adapter import Synthetic
from relay_tektii.adapter import Tektii

#: Seconds between two moves of a market.
EVERY = 0.05


def moving(simulator: Callable[..., Simulator], **settings: Any) -> Callable[[], Simulator]:
    return partial(simulator, interval=EVERY, **settings)


class OnCrypto(Alpaca):
    """The socket of crypto alone, as the pool runs it beside the account's."""

    session = Alpaca.session.socket("crypto")
    socket = "crypto"
    offers = tuple(attrs.evolve(each, socket="") for each in Alpaca.offers if each.kind in ("quote", "depth"))
    commands = ()


class CryptoSimulator(relay_alpaca.simulator.AlpacaSimulator):
    ws_path = "/v1beta3/crypto/us"


test_alpaca_crypto = conformance.sessions(
    OnCrypto,
    attrs.evolve(relay_alpaca.simulator.SIMULATED, pinned=("quote BTC/USD", "depth BTC/USD"), account=None),
    # A connection that died in silence stands there until it is found dead, which takes longer than the table waits.
    simulator=moving(CryptoSimulator, requests_per_minute=None, connections=50),
    cannot={"refused subscription": "a symbol of any name is subscribed, and some bring nothing"},
)
test_crosstrade = conformance.sessions(
    CrossTrade,
    relay_crosstrade.simulator.SIMULATED,
    simulator=moving(relay_crosstrade.simulator.CrossTradeSimulator, upgrades=1000),
    cannot={"refused subscription": "the add-on answers a subscription with nothing, and streams what it has"},
)
test_helio = conformance.sessions(
    Helio,
    relay_helio.simulator.SIMULATED,
    simulator=moving(relay_helio.simulator.HelioSimulator),
    order={"quantity": "10000"},
    cannot={"refused subscription": "an error names no symbol, so that it refuses nobody's stream"},
)
test_scaletrade = conformance.sessions(
    ScaleTrade,
    relay_scaletrade.simulator.SIMULATED,
    simulator=moving(relay_scaletrade.simulator.ScaleTradeSimulator),
    order={"quantity": "10"},
    cannot={"refused subscription": "a channel of any name is joined, and some bring nothing"},
)
test_shuriken = conformance.sessions(
    Shuriken,
    relay_shuriken.simulator.SIMULATED,
    simulator=moving(relay_shuriken.simulator.ShurikenSimulator, backoff_ms=(50, 100, 200)),
)
test_synthetic = conformance.sessions(
    Synthetic,
    attrs.evolve(
        relay_synthetic.simulator.SIMULATED, pinned=("quote BTC/USD", "depth BTC/USD", "public_trade ETH/USD")
    ),
    simulator=partial(relay_synthetic.simulator.SyntheticSimulator, rate=1 / EVERY),
)
test_tektii = conformance.sessions(
    Tektii,
    relay_tektii.simulator.SIMULATED,
    simulator=moving(relay_tektii.simulator.TektiiSimulator, requests_per_minute=None),
    order={"quantity": "10"},
)
