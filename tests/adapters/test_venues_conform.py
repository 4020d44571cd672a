"""The public venues against the kit every plugin author gets."""

from pathlib import Path

from relay.testing import conformance
from relay_binance.adapter import Binance
from relay_binance.futures import BinanceFutures
from relay_bitfinex.adapter import Bitfinex
from relay_bitstamp.adapter import Bitstamp
from relay_bybit.adapter import Bybit
from relay_coinbase.adapter import Coinbase
from relay_deribit.adapter import Deribit
from relay_gateio.adapter import GateIo
from relay_kraken.adapter import Kraken
from relay_kraken_futures.adapter import KrakenFutures
from relay_kucoin.adapter import KuCoin
from relay_okx.adapter import Okx
from relay_upbit.adapter import Upbit

FIXTURES = Path(__file__).parents[1] / "fixtures"

test_binance = conformance.tests(Binance, FIXTURES / "binance.jsonl")
test_binance_futures = conformance.tests(BinanceFutures, FIXTURES / "binance_futures.jsonl")
test_bitfinex = conformance.tests(Bitfinex, FIXTURES / "bitfinex.jsonl")
test_bitstamp = conformance.tests(Bitstamp, FIXTURES / "bitstamp.jsonl")
test_bybit = conformance.tests(Bybit, FIXTURES / "bybit.jsonl")
test_coinbase = conformance.tests(Coinbase, FIXTURES / "coinbase.jsonl")
test_deribit = conformance.tests(Deribit, FIXTURES / "deribit.jsonl")
test_gateio = conformance.tests(GateIo, FIXTURES / "gateio.jsonl")
test_kraken = conformance.tests(Kraken, FIXTURES / "kraken.jsonl")
test_kraken_futures = conformance.tests(KrakenFutures, FIXTURES / "kraken_futures.jsonl")
test_kucoin = conformance.tests(KuCoin, FIXTURES / "kucoin.jsonl")
test_okx = conformance.tests(Okx, FIXTURES / "okx.jsonl")
test_upbit = conformance.tests(Upbit, FIXTURES / "upbit.jsonl")
