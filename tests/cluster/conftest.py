"""Fixtures of the tests of several relays."""

import gc
import warnings
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def collect_what_coredis_leaks() -> Iterator[None]:
    """Collect garbage here: coredis leaves buffers unclosed where a connection fails, which another test would be blamed for."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
