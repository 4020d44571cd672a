"""The public venues against the kit every plugin author gets."""

from pathlib import Path

from relay.testing import conformance
from relay_binance.adapter import Binance
from relay_bitstamp.adapter import Bitstamp
from relay_kraken.adapter import Kraken

FIXTURES = Path(__file__).parents[1] / "fixtures"

test_binance = conformance.tests(Binance, FIXTURES / "binance.jsonl")
test_bitstamp = conformance.tests(Bitstamp, FIXTURES / "bitstamp.jsonl")
test_kraken = conformance.tests(Kraken, FIXTURES / "kraken.jsonl")
