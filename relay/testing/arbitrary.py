"""Hypothesis strategies for messages. Imported only where hypothesis is installed."""

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from relay.testing.mutations import mutants

_words = st.sampled_from(["type", "event", "data", "price", "side", "BUY", "symbol", "ts", "0", "1.5", "NaN", ""])
_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | _words


def values() -> st.SearchStrategy[Any]:
    """Return a strategy for any JSON value of moderate size."""
    return st.recursive(
        _scalars,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_words | st.text(max_size=8), inner, max_size=5),
        max_leaves=20,
    )


def messages(examples: Sequence[str]) -> st.SearchStrategy[str]:
    """Return a strategy for any JSON, any text, and examples broken twice."""
    anything = values().map(json.dumps) | st.text(max_size=200)
    if not examples:
        return anything
    return anything | st.tuples(st.sampled_from(examples), st.integers(0, 10**6), st.integers(0, 10**6)).map(
        lambda drawn: _broken_twice(*drawn)
    )


def _broken_twice(text: str, first: int, second: int) -> str:
    for choice in (first, second):
        ways = [mutant.text for mutant in mutants(text) if len(mutant.text) < 100_000]
        text = ways[choice % len(ways)]
    return text
