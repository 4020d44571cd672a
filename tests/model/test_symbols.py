import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model.symbols import NEAR, SymbolError, SymbolTable

names = st.text("ABC/", min_size=1, max_size=3)


@given(st.lists(st.tuples(names, names), max_size=12))
def test_the_table_is_one_to_one_whatever_it_is_taught(pairs: list[tuple[str, str]]) -> None:
    table = SymbolTable()
    refused = table.learn(pairs)
    assert len(list(table)) == len(table)
    assert len(refused) <= len(pairs)
    for native, canonical in table:
        assert table.canonical(native) == canonical
        assert table.native(canonical) == native


def test_where_no_rule_applies_the_providers_text_is_the_symbol() -> None:
    table = SymbolTable({"EURUSD": "EUR/USD"})
    assert (table.canonical("AAPL"), table.native("AAPL")) == ("AAPL", "AAPL")
    assert (table.canonical("EURUSD"), table.native("EUR/USD")) == ("EURUSD".replace("EUR", "EUR/"), "EURUSD")


def test_asking_under_the_native_name_of_a_mapped_symbol_is_refused() -> None:
    with pytest.raises(SymbolError, match="EURUSD is written EUR/USD here"):
        SymbolTable({"EURUSD": "EUR/USD"}).native("EURUSD")


def test_ambiguity_is_an_error_that_names_both() -> None:
    table = SymbolTable()
    table.add("XBTUSD", "BTC/USD")
    table.add("XBTUSD", "BTC/USD")
    with pytest.raises(SymbolError, match=r"BTC/USD is XBTUSD at this provider, it cannot also be BTCUSD"):
        table.add("BTCUSD", "BTC/USD")
    with pytest.raises(SymbolError, match=r"XBTUSD is BTC/USD, it cannot also be BTC/EUR"):
        table.add("XBTUSD", "BTC/EUR")
    with pytest.raises(SymbolError, match="empty"):
        table.add("", "X")
    assert [str(error)[:7] for error in table.learn([("BTCUSD", "BTC/USD"), ("ETHUSD", "ETH/USD")])] == ["BTC/USD"]
    assert table.canonical("BTCUSD") == "BTCUSD"


def test_configuration_wins_over_metadata() -> None:
    table = SymbolTable({"EURUSD": "EUR/USD.spot"})
    assert table.learn([("EURUSD", "EUR/USD")]) == []
    assert table.canonical("EURUSD") == "EUR/USD.spot"


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("btc/usd", [(0, "BTC/USD"), (1, "BTC/USDT")]),
        ("BTCUSD", [(0, "BTC/USD"), (1, "BTC/USDT")]),
        ("xbt", [(1, "BTC/EUR")]),
        ("usd", [(2, "BTC/USD"), (2, "BTC/USDT")]),
        ("u.s. bitcoin", [(2, "BTC/USD")]),
        ("AAPL", [(0, "AAPL")]),
        ("btcusx", [(3, "BTC/USD"), (3, "BTC/USDT")]),
        ("bctusd", [(3, "BTC/USD"), (3, "BTC/USDT")]),
        ("zzzzzz", []),
    ],
)
def test_a_search_ignores_case_and_separators_and_falls_back_on_near_names(
    query: str, found: list[tuple[int, str]]
) -> None:
    table = SymbolTable({"btcusdt": "BTC/USDT"})
    table.learn([("btcusd", "BTC/USD"), ("XBTEUR", "BTC/EUR")], names={"btcusd": "Bitcoin / U.S. dollar"})
    assert [(min(each.distance, NEAR), each.canonical) for each in sorted(table.search(query, ["AAPL"]))] == found


def test_a_search_finds_what_was_learned_since_and_forgets_what_a_complete_list_lacks() -> None:
    table = SymbolTable()
    table.learn([("a", "A"), ("b", "B")], complete=True)
    assert {each.canonical for each in table.search("")} == {"A", "B"}
    table.learn([("b", "B"), ("c", "C")], complete=True)
    assert {each.canonical for each in table.search("")} == {"B", "C"}
