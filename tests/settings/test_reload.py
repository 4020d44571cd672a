"""A reload says which changes it applies, and which need a restart."""

from typing import Any

import pytest

from relay.settings import reload_changes

BEFORE = """
allow_inline_secrets = true
[apps.web]
id = 7
key = "web"
secret = "a-secret-of-the-app"
[providers.venue]
linger = 5
[providers.broker.accounts.main]
credentials = { key = "k1", secret = "s1" }
"""


@pytest.mark.parametrize(
    ("written", "instead", "applied", "restart"),
    [
        ("", "", [], []),
        ('key = "web"', 'key = "other"', ["apps"], []),
        ("id = 7", "id = 7\nclient_events = true", ["apps"], []),
        ('key = "k1"', 'key = "k2"', ["providers.broker.accounts.main.credentials"], []),
        ("[apps.web]", "[costs.prices]\nmessage = 7\n[apps.web]", ["costs"], []),
        ("linger = 5", "linger = 6", [], ["providers.venue.linger"]),
        ("accounts.main", "accounts.more", [], ["providers.broker.accounts.more", "providers.broker.accounts.main"]),
        ("[providers.venue]\nlinger = 5\n", "", [], ["providers.venue"]),
        ("[apps.web]", "[outbox]\nmessages = 7\n[apps.web]", [], ["outbox.messages"]),
        ("[apps.web]", '[server]\nlisten = "127.0.0.1:7000"\n[apps.web]', [], ["server.port"]),
    ],
)
def test_each_change_is_named_where_it_belongs(
    read: Any, written: str, instead: str, applied: list[str], restart: list[str]
) -> None:
    assert written in BEFORE
    after = BEFORE.replace(written, instead) if written else BEFORE
    assert reload_changes(read(BEFORE, app=""), read(after, app="")) == (applied, restart)
