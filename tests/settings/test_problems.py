"""Bad configurations, and the exact lines that say what is wrong with them."""

from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.errors import path_text
from relay.settings import SettingsError, settings_of
from relay.settings.structure import structure
from relay.settings.tables import Document

BROKER = '[providers.acme]\nadapter = "broker"\n'
KEYS = '[providers.acme.credentials]\nkey = { env = "BROKER_KEY" }\nsecret = { env = "OLD_SECRET" }\n'
VENUE = "[providers.venue]\n"

HOW = 'write { env = "NAME" } or { file = "/path" }'
APPS = (
    "accounts, activity_timeout, allowed_origins, authorization_timeout, cache_ttl, client_events, enabled, id, "
    "inactivity_timeout, key, limits, max_connections, max_unauthorized, non_numeric_id, pong_timeout, previous_secret, require_tls, "
    "secret, subscription_count"
)

BAD: list[tuple[str, list[str]]] = [
    # keys
    ("sever = 1", ["sever: unknown key; did you mean server?"]),
    ("[server]\nport = 1", ["server.port: unknown key; there are: behind_proxy, hosts, limits, listen, public_url, status_public, subscribers, tls_cert, tls_key"]),
    ("[provider.acme]", ["provider: unknown key; did you mean providers?"]),
    ("[[providers]]\nname = 'x'", ["providers: must be a table of names, like [providers.NAME], not a list"]),
    ("server = 5", ["server: must be a table, not 5"]),
    ("[server.limits]\nhead_byte = 1", ["server.limits.head_byte: unknown key; did you mean head_bytes?"]),
    # types and ranges
    ("[server]\nstatus_public = 'yes'", ["server.status_public: must be true or false, not text"]),
    ("[server]\nlisten = 6001", ["server.listen: must be text, not 6001"]),
    ("[server.limits]\nconnections = 1.5", ["server.limits.connections: must be an integer, not 1.5"]),
    ("[server.limits]\nconnections = true", ["server.limits.connections: must be an integer, not true"]),
    ("[server.limits]\nconnections = 0", ["server.limits.connections: must be >= 1: 0"]),
    ("[server.limits]\ndrain = '5'", ["server.limits.drain: must be a number, not text"]),
    ("[server.limits]\ndrain = nan", ["server.limits.drain: must be a finite number, not nan"]),
    ("[server.limits]\ndrain = -1", ["server.limits.drain: must not be negative: -1"]),
    ("[server.subscribers]\ncompression = 'on'", ["server.subscribers.compression: must be true or false, not text"]),
    ("[server.subscribers]\ncompress = true", ["server.subscribers.compress: unknown key; did you mean compression?"]),
    ("[history]\nevents = -1", ["history.events: must not be negative: -1"]),
    ("[outbox]\nmessages = 0", ["outbox.messages: must be >= 1: 0"]),
    ("[log]\nformat = 'jsonl'", ["log.format: must be console or json; did you mean json?"]),
    ("[log]\nlevel = 3", ["log.level: must be debug, info, warning, error"]),
    ("[log]\nlevel = 1979-05-27", ["log.level: must be debug, info, warning, error"]),
    # server
    ("[server]\nlisten = ':6001'", ["server.listen: not an address to listen on: ':6001'; write HOST:PORT, for example 127.0.0.1:6001"]),
    ("[server]\nlisten = '127.0.0.1:99999'", ["server.listen: port 99999 of '127.0.0.1:99999': a port is a number up to 65535; write HOST:PORT, for example 127.0.0.1:6001"]),
    ("[server]\npublic_url = 'feed.example.com'", ["server.public_url: must be a URL that starts with http:// or https://"]),
    ("[server]\npublic_url = 'http://[::1'", ["server.public_url: must be a URL that starts with http:// or https://"]),
    ("[server]\ntls_cert = 'cert.pem'", ["server.tls_key: missing; tls_cert and tls_key belong together"]),
    ("[server]\ntls_cert = 'cert.pem'\ntls_key = 'no.pem'", ["server.tls_key: cannot read /etc/tickrelay/no.pem: No such file or directory"]),
    ("[server]\ntls_cert = 'secret.txt'\ntls_key = 'key.pem'", ["server.tls_cert: /etc/tickrelay/secret.txt is not a PEM file"]),
    # apps
    ("[apps.b]", ["apps.b.id: missing", "apps.b.key: missing", "apps.b.secret: missing"]),
    ("[apps.b]\nid = 'x1'\nkey = 'b'\nsecret = { env = 'OLD_SECRET' }", ["apps.b.id: must be digits, as the Pusher server libraries demand; non_numeric_id = true allows others"]),
    ("[apps.b]\nid = 'a/b'\nnon_numeric_id = true\nkey = 'b'\nsecret = { env = 'OLD_SECRET' }", ["apps.b.id: must not contain /, ?, #, % or spaces"]),
    ("[apps.b]\nid = 7\nkey = 'web-key'\nsecret = { env = 'OLD_SECRET' }", ["apps.web.id: 7 is already the id of apps.b", "apps.web.key: web-key is already the key of apps.b"]),
    ("[apps.b]\nid = 8\nkey = 'a b'\nsecret = { env = 'OLD_SECRET' }", ["apps.b.key: must be letters, digits, -, _ and ."]),
    ("[apps.b]\nid = 8\nkey = 'demo-key'\nsecret = { env = 'DEMO' }", ["apps.b.key: this is the demo's value, known to everybody; choose your own", "apps.b.secret: this is the demo's value, known to everybody; choose your own"]),
    ("[apps.b]\nid = 8\nkey = 'b'\nsecret = { env = 'OLD_SECRET' }\nport = 1", [f"apps.b.port: unknown key; there are: {APPS}"]),
    ("[apps.b]\nid = 8\nkey = 'b'\nsecret = { env = 'OLD_SECRET' }\nactivity_timeout = 0", ["apps.b.activity_timeout: must be >= 1: 0"]),
    ("[apps.b]\nid = 8\nkey = 'b'\nsecret = { env = 'OLD_SECRET' }\nallowed_origins = '*'", ["apps.b.allowed_origins: must be a list, not text"]),
    # secrets
    ("[apps.b]\nid = 8\nkey = 'b'\nsecret = 'plain'", [f"apps.b.secret: a secret must not stand in this file; {HOW}, or set allow_inline_secrets = true"]),
    ("[apps.b]\nid = 8\nkey = 'b'\nsecret = { env = 'NOPE' }", ["apps.b.secret: environment variable NOPE is not set"]),
    ("[apps.b]\nid = 8\nkey = 'b'\nsecret = { env = 'EMPTY' }", ["apps.b.secret: environment variable EMPTY is empty"]),
    ("[apps.b]\nid = 8\nkey = 'b'\nsecret = { file = 'empty.txt' }", ["apps.b.secret: file /etc/tickrelay/empty.txt is empty"]),
    ("[apps.b]\nid = 8\nkey = 'b'\nsecret = { file = '/no' }", ["apps.b.secret: cannot read /no: No such file or directory"]),
    ("[apps.b]\nid = 8\nkey = 'b'\nsecret = { env = 'A', file = 'b' }", [f"apps.b.secret: not a secret; {HOW}"]),
    ("[apps.b]\nid = 8\nkey = 'b'\nsecret = 5", [f"apps.b.secret: not a secret; {HOW}"]),
    # API keys
    ("[api_keys.desk]", ["api_keys.desk: write either key or sha256"]),
    ("[api_keys.desk]\nkey = { env = 'API_KEY' }\nsha256 = '" + "0" * 64 + "'", ["api_keys.desk: write either key or sha256"]),
    ("[api_keys.desk]\nsha256 = 'abc'", ["api_keys.desk.sha256: must be 64 hexadecimal digits in lower case, as `tickrelay key` prints them"]),
    ("[api_keys.a]\nkey = { env = 'API_KEY' }\n[api_keys.b]\nkey = { env = 'API_KEY' }", ["api_keys.b: is the same key as api_keys.a"]),
    ("[api_keys.'a b']\nkey = { env = 'API_KEY' }", ['api_keys."a b": the name of an API key is letters, digits, -, _, . and @']),
    ("[api_keys.a]\nkey = { env = 'API_KEY' }\nstreams = ['quotes.*']", ["api_keys.a.streams: quotes.*: no stream is of kind quotes; did you mean quote?"]),
    ("[api_keys.a]\nkey = { env = 'API_KEY' }\nstreams = ['private-quote.*']", ["api_keys.a.streams: private-quote.*: write it without private-"]),
    (VENUE + "[api_keys.a]\nkey = { env = 'API_KEY' }\nstreams = ['quote.veneu.*']", ["api_keys.a.streams: quote.veneu.*: no provider is named veneu; did you mean venue?"]),
    ("[api_keys.a]\nkey = { env = 'API_KEY' }\nstreams = ['quote']", ["api_keys.a.streams: quote: names no stream; write quote.*"]),
    ("[api_keys.a]\nkey = { env = 'API_KEY' }\nstreams = ['binance.qoute.BTC']", ["api_keys.a.streams: binance.qoute.BTC: no stream is of kind qoute; did you mean quote?"]),
    ("[api_keys.a]\nkey = { env = 'API_KEY' }\nstreams = ['']", ["api_keys.a.streams: a pattern is empty; write for example quote.*"]),
    ("[api_keys.a]\nkey = { env = 'API_KEY' }\nstreams = ['quote..X']", ["api_keys.a.streams: quote..X: a pattern is KIND.PROVIDER.SYMBOL or PROVIDER.KIND.SYMBOL, a point in a symbol =2E"]),
    ("[api_keys.a]\nkey = { env = 'API_KEY' }\nstreams = ['helio.account']", ["api_keys.a.streams: helio.account: accounts are no streams; grant them under accounts, as PROVIDER.ACCOUNT"]),
    (VENUE + "[api_keys.a]\nkey = { env = 'API_KEY' }\nstreams = ['status.venue.X']", ["api_keys.a.streams: status.venue.X: status streams have no symbol; write status.venue"]),
    (VENUE + "[api_keys.a]\nkey = { env = 'API_KEY' }\nstreams = ['quote.venue.X.1m']", ["api_keys.a.streams: quote.venue.X.1m: quote streams have no timeframe; write quote.venue.X"]),
    (VENUE + "[api_keys.a]\nkey = { env = 'API_KEY' }\naccounts = ['venue']", ["api_keys.a.accounts: venue: names no account; write venue.* for all of this provider's"]),
    (VENUE + "[api_keys.a]\nkey = { env = 'API_KEY' }\naccounts = ['account.venue.main']", ["api_keys.a.accounts: account.venue.main: write venue.main"]),
    (VENUE + "[api_keys.a]\nkey = { env = 'API_KEY' }\naccounts = ['private-account.venue.main']", ["api_keys.a.accounts: private-account.venue.main: write it without private-"]),
    ("[apps.b]\nid = 8\nkey = 'b'\nsecret = { env = 'OLD_SECRET' }\naccounts = ['acme.live']", ["apps.b.accounts: acme.live: no provider is named acme; there are none"]),
    ("[api_keys.a]\nkey = { env = 'API_KEY' }\ntrade = ['acme.live']", ["api_keys.a.trade: acme.live: no provider is named acme; there are none"]),
    # providers
    ("[providers.Acme]\nadapter = 'venue'", ["providers.Acme: a provider's name is lower-case letters, digits, - and _, and not `all`"]),
    ("[providers.all]\nadapter = 'venue'", ["providers.all: a provider's name is lower-case letters, digits, - and _, and not `all`"]),
    ("[providers.acme]", ["providers.acme.adapter: no adapter is named acme; there are: broker, venue"]),
    ("[providers.acme]\nadapter = 'brokr'", ["providers.acme.adapter: no adapter is named brokr; did you mean broker?"]),
    ("[providers.acme]\nadaptr = 'broker'", ["providers.acme.adaptr: unknown key; did you mean adapter?"]),
    (BROKER, ["providers.acme.credentials.key: missing; adapter broker needs it", "providers.acme.credentials.secret: missing; adapter broker needs it"]),
    (BROKER + "[providers.acme.crednetials]\nkey = { env = 'BROKER_KEY' }", ["providers.acme.crednetials: unknown key; did you mean credentials?"]),
    (BROKER + KEYS + "secrt = { env = 'X' }", ["providers.acme.credentials.secrt: adapter broker has no such credential; did you mean secret?"]),
    (BROKER + "[providers.acme.credentials]\nkey = 5\nsecret = { env = 'NOPE' }", [f"providers.acme.credentials.key: not a secret; {HOW}", "providers.acme.credentials.secret: environment variable NOPE is not set"]),
    (BROKER + "[providers.acme.accounts.live.credentials]\nkey = { env = 'BROKER_KEY' }", ["providers.acme.accounts.live.credentials.secret: missing; adapter broker needs it"]),
    (VENUE + "credentials = { key = { env = 'API_KEY' } }", ["providers.venue.credentials.key: adapter venue has no such credential; there are none"]),
    (VENUE + "url = 'https://x'", ["providers.venue.url: must be a URL that starts with ws:// or wss://"]),
    (VENUE + "http_url = 'x'", ["providers.venue.http_url: must be a URL that starts with http:// or https://"]),
    (VENUE + "visibility = 'secret'", ["providers.venue.visibility: must be public or private"]),
    (VENUE + "options = { dept = 5 }", ["providers.venue.options.dept: adapter venue has no such option; did you mean depth?"]),
    (VENUE + "options = { depth = 5 }", ["providers.venue.options: depth: expected 10 or 100, got '5'"]),
    (VENUE + "options = { speed = 'fst' }", ["providers.venue.options.speed: expected slow, fast or faster, got 'fst'"]),
    (VENUE + "options = { depth = 1.5 }", ["providers.venue.options.depth: must be text, an integer, true or false, not 1.5"]),
    (VENUE + "symbols = { XBT = 'BTC/USD', BTC = 'BTC/USD' }", ["providers.venue.symbols.BTC: ambiguous: BTC/USD is XBT at this provider, it cannot also be BTC"]),
    (VENUE + "symbols = { XBT = '' }", ["providers.venue.symbols.XBT: is empty"]),
    (VENUE + "pinned = ['quotes BTC']", ['providers.venue.pinned: "quotes BTC": adapter venue has no quotes; did you mean quote?']),
    (VENUE + "pinned = ['quote']", ['providers.venue.pinned: "quote": write it like "quote BTC/USDT", or "candle BTC/USDT 1m"']),
    (VENUE + "pinned = ['candle BTC']", ['providers.venue.pinned: "candle BTC": write it like "quote BTC/USDT", or "candle BTC/USDT 1m"']),
    (VENUE + "pinned = ['candle BTC 5m']", ['providers.venue.pinned: "candle BTC 5m": adapter venue has no candles of 5m; there are: 1m, 1h']),
    (VENUE + "pinned = ['quote.kraken.BTC']", ['providers.venue.pinned: "quote.kraken.BTC": is a stream of kraken']),
    (VENUE + "pinned = ['quote.venue']", ['providers.venue.pinned: "quote.venue": not a stream\'s channel: quote.venue']),
    (VENUE + "symbols = { BTCUSD = 'BTC/USD' }\npinned = ['quote BTCUSD']", ['providers.venue.pinned: "quote BTCUSD": BTCUSD is written BTC/USD here']),
    (VENUE + "stale_after = { qoute = 5 }", ["providers.venue.stale_after.qoute: adapter venue has no qoute; did you mean quote?"]),
    (VENUE + "stale_after = { quote = -1 }", ["providers.venue.stale_after.quote: must not be negative: -1"]),
    (VENUE + "stale_after = { 'candle BTC 5m' = 5 }", ['providers.venue.stale_after."candle BTC 5m": adapter venue has no candles of 5m; there are: 1m, 1h']),
    (VENUE + "symbols = { X = 'BTC/USD' }\nstale_after = { 'quote X' = 5 }", ['providers.venue.stale_after."quote X": X is written BTC/USD here']),
    (VENUE + "first_data_within = -1", ["providers.venue.first_data_within: must not be negative: -1"]),
    (VENUE + "hours = 'Mon-Fri 09:30-16:00'", ["providers.venue.hours: must be a table of names, like [providers.NAME], not text"]),
    (VENUE + "hours = { default = 'nights' }", ["providers.venue.hours.default: not a timetable such as 'Sun 17:00-Fri 17:00' or 'Mon-Fri 09:30-16:00': 'nights'"]),
    (VENUE + "hours = { default = 'Mon-Fri 09:30-16:00 New_York' }", ["providers.venue.hours.default: no such time zone: 'New_York'"]),
    (VENUE + "hours = { quote = 'always' }", ["providers.venue.hours.quote: hours are a market's: write default, or a symbol, not quote"]),
    (VENUE + "symbols = { X = 'BTC/USD' }\nhours = { X = 'always' }", ["providers.venue.hours.X: X is written BTC/USD here"]),
    (BROKER + "pinned = ['account live']\n" + KEYS, ['providers.acme.pinned: "account live": no such account; there are none']),
    # plugins
    ("[plugins.recorder]", ["plugins.recorder: no plugin reads this table; there are none"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "lines"), BAD, ids=[lines[0].split(";")[0] for _, lines in BAD])
def test_bad(read: Any, text: str, lines: list[str]) -> None:
    with pytest.raises(SettingsError) as refused:
        read(f"{text}\n")
    assert refused.value.lines == tuple(lines)


def test_an_app_is_needed(read: Any) -> None:
    with pytest.raises(SettingsError) as refused:
        read("", app="")
    assert refused.value.lines == ("apps: at least one app is needed, [apps.NAME] with id, key and secret",)


def test_everything_at_once(read: Any) -> None:
    """Wrong keys, wrong types and wrong meanings are reported together, and none of them twice."""
    with pytest.raises(SettingsError) as refused:
        read("""
            [server]
            listen = 5
            tls_cert = "cert.pem"
            [server.limits]
            idle = "x"
            [apps.a]
            id = true
            key = "web-key"
            secret = { env = "NOPE" }
            [providers.acme]
            adapter = "broker"
            pinned = [1, "quotes BTC", 2]
            lingr = 3
            [providers.acme.credentials]
            key = "plain"
        """)
    assert refused.value.lines == (
        "apps.a.id: must be text or an integer, not true",
        "apps.a.secret: environment variable NOPE is not set",
        "apps.web.key: web-key is already the key of apps.a",
        "providers.acme.pinned[0]: must be text, not 1",
        "providers.acme.pinned[2]: must be text, not 2",
        "providers.acme.lingr: unknown key; did you mean linger?",
        f"providers.acme.credentials.key: a secret must not stand in this file; {HOW}, or set allow_inline_secrets = true",
        "providers.acme.credentials.secret: missing; adapter broker needs it",
        'providers.acme.pinned: "quotes BTC": adapter broker has no quotes; did you mean quote?',
        "server.limits.idle: must be a number, not text",
        "server.listen: must be text, not 5",
        "server.tls_key: missing; tls_cert and tls_key belong together",
    )


def test_problems_of_plugin_tables(read: Any) -> None:
    def even(_: Any, __: Any, value: int) -> None:
        if value % 2:
            raise ValueError(f"must be even, not {value}")

    @attrs.frozen
    class Recorder:
        directory: str
        keep: int = attrs.field(default=2, validator=even)

    configured: list[Any] = []
    with pytest.raises(SettingsError) as refused:
        read(
            "[plugins.recorder]\nkeep = 3\ndirectry = 1\n",
            plugin_tables={"recorder": Recorder},
            check_plugins=configured.append,
        )
    assert refused.value.lines == (
        "plugins.recorder.directory: missing",
        "plugins.recorder.keep: must be even, not 3",
        "plugins.recorder.directry: unknown key; did you mean directory?",
    )
    assert configured == []


def test_a_validator_that_needs_other_fields_runs_when_they_are_there() -> None:
    @attrs.frozen
    class Range:
        low: int
        high: int = attrs.field()

        @high.validator
        def _check(self, _: object, high: int) -> None:
            if high < self.low:
                raise ValueError("high is below low")

    assert structure({"low": 1, "high": 2}, Range).value == Range(1, 2)
    assert [str(p) for p in structure({"low": 2, "high": 1}, Range, ("r",)).problems] == ["r: high is below low"]


def test_a_secret_in_the_wrong_place_is_not_shown(read: Any) -> None:
    with pytest.raises(SettingsError) as refused:
        read(
            "[server.limits]\nidle = 'hunter2-hunter2'\n[apps.b]\nid = 8\nkey = 'b'\nsecret = { value = 'hunter2-hunter2' }\n"
        )
    assert "hunter2" not in str(refused.value)


def test_paths_are_written_as_toml() -> None:
    assert path_text(("providers", "a", "pinned", 3)) == "providers.a.pinned[3]"
    assert path_text(("symbols", 'BTC/"USD"')) == 'symbols."BTC/\\"USD\\""'


TOML = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KNOWN = st.sampled_from(["server", "apps", "api_keys", "providers", "history", "log", "plugins", "web", "limits", "secret",
                         "pinned", "credentials", "accounts", "options", "symbols", "key", "id", "listen", "hours", "stale_after"])  # fmt: skip


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(KNOWN, st.dictionaries(KNOWN, st.dictionaries(KNOWN, TOML, max_size=3) | TOML, max_size=3) | TOML)
)
def test_any_document_gets_settings_or_problems(document: dict[str, Any]) -> None:
    """Whatever is written: settings, or lines; and after what is wrong is cut out the rest can be read."""
    reading = structure(document, Document)
    assert reading.value is not None
    lines = _lines(document)
    assert all(lines)
    assert "\n" not in "".join(lines)


def _lines(document: dict[str, Any]) -> tuple[str, ...]:
    try:
        settings_of(document, Path("c.toml"), {}, {}, lambda path: "")
    except SettingsError as error:
        return error.lines
    return ()
