"""A configuration read without a file system: two adapters, an environment, a dictionary of files."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from relay.adapter import Adapter, Context, Offer, Option, Session
from relay.settings import Settings, load

BASE = Path("/etc/tickrelay")
CONFIG = BASE / "tickrelay.toml"


class Venue(Adapter):
    """Public market data."""

    name = "venue"
    session = Session(url="wss://venue.example/ws")
    offers = (Offer(kind="quote"), Offer(kind="candle", timeframes=("1m", "1h")))
    options = (
        Option("depth", "100"),
        Option("region", "eu"),
        Option("speed", "slow", choices=("slow", "fast", "faster")),
    )

    def __init__(self, context: Context) -> None:
        if context.options["depth"] not in ("10", "100"):
            raise ValueError(f"depth: expected 10 or 100, got {context.options['depth']!r}")
        super().__init__(context)

    def decode(self, message: str) -> Iterable[Any]:
        return ()


class Broker(Adapter):
    """Accounts with credentials."""

    name = "broker"
    session = Session(url="wss://broker.example/ws")
    offers = (Offer(kind="quote"), Offer(kind="order", visibility="presence"))
    credentials = ("key", "secret")

    def decode(self, message: str) -> Iterable[Any]:
        return ()


ADAPTERS: Mapping[str, type[Adapter]] = {"venue": Venue, "broker": Broker}

ENVIRON = {
    "WEB_SECRET": "web-secret-value",
    "OLD_SECRET": "old-secret-value",
    "API_KEY": "api-key-value",
    "BROKER_KEY": "broker-key-value",
    "EMPTY": " ",
    "DEMO": "demo-secret",
}

FILES = {
    BASE / "secret.txt": "from-a-file\n",
    BASE / "empty.txt": "\n",
    BASE / "cert.pem": "-----BEGIN CERTIFICATE-----\n",
    BASE / "key.pem": "-----BEGIN PRIVATE KEY-----\n",
}

APP = """
[apps.web]
id = 7
key = "web-key"
secret = { env = "WEB_SECRET" }
"""

Read = Callable[..., Settings]


@pytest.fixture
def read() -> Read:
    """`read(text)` loads a configuration of ``text`` and a good app; `app=""` leaves the app out."""

    def read_text(text: str, app: str = APP, **more: Any) -> Settings:
        files = {**FILES, CONFIG: text + app}

        def read_file(path: Path) -> str:
            if path not in files:
                raise FileNotFoundError(2, "No such file or directory", str(path))
            return files[path]

        return load(CONFIG, ENVIRON, ADAPTERS, read_file, **more)

    return read_text
