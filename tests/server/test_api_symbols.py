"""The search of symbols over HTTP."""

from typing import Any

import pytest

from relay.model.symbols import SymbolTable
from relay.provider.catalog import ListedSymbol
from relay.pusher.costs import Costs
from support.api_harness import BEARER, Rig

NARROW = {"Authorization": "Bearer narrow-key"}
TABLES = {
    "helio": SymbolTable({"EURUSD": "EUR/USD", "BTCUSD": "BTC/USD"}),
    "binance": SymbolTable({"BTCUSDT": "BTC/USDT", "ETHUSDT": "ETH/USDT", "BTCUSD": "BTC/USD"}),
    "acme": SymbolTable({"ES 09-26": "ES 09-26"}),
}


def search(query: str, provider: str) -> tuple[list[ListedSymbol], int]:
    table = TABLES[provider]
    prefix = "private-" if provider == "acme" else ""
    return [ListedSymbol(provider, each, ("quote", "candle"), prefix) for each in table.search(query)], len(table)


async def ask(query: str = "", headers: dict[str, str] = BEARER, **more: Any) -> Any:
    rig = Rig(search=search, **more)
    async with rig.http:
        return await rig.http.get(f"/api/v2/symbols{query}", headers=headers)


async def names(query: str, headers: dict[str, str] = BEARER) -> list[str]:
    return [f"{each['provider']} {each['symbol']}" for each in (await ask(query, headers)).json()["symbols"]]


async def test_the_likeliest_comes_first_with_its_channels() -> None:
    assert await names("?q=btcusd") == ["binance BTC/USD", "helio BTC/USD", "binance BTC/USDT"]
    assert (await ask("?q=es&provider=acme")).json() == {
        "symbols": [
            {
                "provider": "acme",
                "symbol": "ES 09-26",
                "native": "ES 09-26",
                "kinds": ["quote", "candle"],
                "channels": {"quote": "private-quote.acme.ES=2009=2D26"},
                "near": False,
            }
        ],
        "total": 1,
        "next": None,
    }


async def test_near_names_are_given_only_where_nothing_else_is_found() -> None:
    first, *_ = (await ask("?q=ethusdx")).json()["symbols"]
    assert (first["symbol"], first["near"]) == ("ETH/USDT", True)


async def test_a_key_finds_only_what_it_may_read() -> None:
    assert await names("?q=btc", NARROW) == ["binance BTC/USD", "binance BTC/USDT"]
    assert await names("?q=btc&kind=candle", NARROW) == []
    assert (await ask("", {})).status_code == 401


async def test_pages_follow_each_other() -> None:
    first = (await ask("?limit=4")).json()
    second = (await ask(f"?limit=4&offset={first['next']}")).json()
    assert (first["total"], first["next"], second["next"]) == (6, 4, None)
    assert len({(s["provider"], s["symbol"]) for s in first["symbols"] + second["symbols"]}) == 6


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("?quary=btc", "quary: unknown"),
        ("?q=a&q=b", "q occurs twice"),
        ("?provider=binanse", "did you mean binance?"),
        ("?kind=quot", "did you mean quote?"),
        ("?limit=0", "limit must be a whole number from 1 to 500"),
        ("?offset=x", "offset must be"),
        (f"?q={'x' * 129}", "more than 128"),
    ],
)
async def test_what_is_wrong_is_named(query: str, says: str) -> None:
    answer = await ask(query)
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]


async def test_a_search_is_paid_for() -> None:
    rig = Rig(search=search, costs=Costs(api_rate=1, api_burst=10))
    async with rig.http:
        statuses = [(await rig.http.get("/api/v2/symbols", headers=BEARER)).status_code for _ in range(2)]
    assert statuses == [200, 429]
