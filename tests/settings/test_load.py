"""A good configuration becomes settings, with safe defaults."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from relay.auth import hash_key
from relay.model.channels import Topic
from relay.model.hours import Hours
from relay.pusher.apps import App
from relay.server.admission import SubscriberLimits
from relay.settings import AccountSettings, SettingsError, Tls, load, parse_listen, settings_of
from relay.settings.tables import AppTable


def test_defaults_are_safe(read: Any) -> None:
    settings = read("")
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 6001)
    assert settings.server.tls is None
    assert not settings.server.status_public
    assert not settings.server.subscribers.compression
    assert settings.api_keys == ()
    (app,) = settings.apps
    assert not app.client_events
    assert settings.notes == ("providers: none is enabled, only the applications' own events will flow",)


def test_app(read: Any) -> None:
    settings = read("", app="""
        [apps.shop]
        id = "12"
        key = "k"
        secret = { file = "secret.txt" }
        previous_secret = { env = "OLD_SECRET" }
        allowed_origins = ["https://*.example.com"]
        activity_timeout = 30
        limits = { batch = 20, events_per_second = 5 }
    """)  # fmt: skip
    (app,) = settings.apps
    assert (app.name, app.id, app.key) == ("shop", "12", "k")
    assert app.secrets == ("from-a-file", "old-secret-value")
    assert app.origin_allowed("https://a.example.com")
    assert not app.origin_allowed("https://evil.test")
    assert (app.activity_timeout, app.limits.batch, app.limits.events_per_second) == (30, 20, 5)


def test_compression_is_switched_on_for_the_port(read: Any) -> None:
    settings = read("[server.subscribers]\ncompression = true\nmessage_bytes = 20_000")
    assert settings.server.subscribers == SubscriberLimits(compression=True, message_bytes=20_000)


def test_every_attribute_of_an_app_is_a_setting_with_the_same_default() -> None:
    table = attrs.fields_dict(AppTable)
    for attribute in attrs.fields(App):
        if attribute.init and attribute.name not in ("id", "key", "secrets", "name"):
            assert table[attribute.name].default == attribute.default or attribute.name == "limits"


def test_api_keys_are_kept_as_digests(read: Any) -> None:
    settings = read(f"""
        [api_keys.desk]
        key = {{ env = "API_KEY" }}
        accounts = ["acme.*"]
        [api_keys.other]
        sha256 = "{hash_key("x")}"
        streams = ["status.*"]
        [providers.acme]
        adapter = "venue"
    """)
    desk, other = settings.api_keys
    assert (desk.name, desk.digest, desk.trade) == ("desk", hash_key("api-key-value"), ())
    assert (other.digest, other.streams) == (hash_key("x"), ("status.*",))


def test_provider(read: Any) -> None:
    settings = read("""
        [providers.venue]
        url = "ws://127.0.0.1:9"
        pinned = ["quote BTC/USDT", "candle BTC/USDT 1m", "quote.venue.BTC-USDT", "quote ES 09-26"]
        visibility = "private"
        [providers.venue.options]
        depth = 10
        [providers.venue.symbols]
        BTCUSDT = "BTC/USDT"
        [providers.off]
        adapter = "broker"
        enabled = false
    """)
    (provider,) = settings.providers
    assert provider.adapter.name == "venue"
    assert provider.options == {"depth": "10", "region": "eu", "speed": "slow"}
    assert provider.accounts == (AccountSettings(),)
    assert provider.pinned == (
        Topic(kind="quote", symbol="BTC/USDT"),
        Topic(kind="candle", symbol="BTC/USDT", timeframe="1m"),
        Topic(kind="quote", symbol="ES 09-26"),
    )
    assert (provider.visibility, provider.linger, provider.required) == ("private", 30.0, False)


def test_silence_and_hours_of_a_provider(read: Any) -> None:
    settings = read("""
        [providers.venue]
        first_data_within = 20
        stale_after = { quote = 30, candle = 0, "quote BTC/USDT" = 5, "candle BTC/USDT 1h" = 4000 }
        hours = { default = "Sun 17:00-Fri 17:00 America/New_York", "BTC/USDT" = "always", ES = "Mon-Fri 09:30-16:00" }
    """)
    (provider,) = settings.providers
    assert provider.first_data_within == 20
    assert provider.stale_after == {
        "quote": 30,
        "candle": 0,
        Topic(kind="quote", symbol="BTC/USDT"): 5,
        Topic(kind="candle", symbol="BTC/USDT", timeframe="1h"): 4000,
    }
    assert provider.hours == {
        None: Hours("Sun 17:00-Fri 17:00", "America/New_York"),
        "BTC/USDT": Hours("Mon-Sun 00:00-24:00"),
        "ES": Hours("Mon-Fri 09:30-16:00", "UTC"),
    }


def test_accounts_share_the_providers_credentials(read: Any) -> None:
    settings = read("""
        [providers.acme]
        adapter = "broker"
        pinned = ["account live"]
        credentials = { key = { env = "BROKER_KEY" } }
        [providers.acme.accounts.live.credentials]
        secret = { file = "secret.txt" }
        [providers.acme.accounts.paper.credentials]
        secret = { env = "OLD_SECRET" }
        key = { env = "API_KEY" }
    """)
    assert settings.providers[0].accounts == (
        AccountSettings(name="live", credentials={"key": "broker-key-value", "secret": "from-a-file"}),
        AccountSettings(name="paper", credentials={"key": "api-key-value", "secret": "old-secret-value"}),
    )
    assert settings.providers[0].pinned == (Topic(kind="account", account="live"),)
    assert settings.secret_values >= {"broker-key-value", "from-a-file", "old-secret-value", "web-secret-value"}


def test_no_secret_is_in_the_repr(read: Any) -> None:
    settings = read("""
        allow_inline_secrets = true
        [providers.acme]
        adapter = "broker"
        credentials = { key = "inline-key-value", secret = { file = "secret.txt" } }
        [api_keys.desk]
        key = { env = "API_KEY" }
    """)
    shown = repr(settings)
    assert "inline-key-value" in settings.secret_values
    for secret in settings.secret_values:
        assert secret not in shown


def test_credentials_from_a_plugin(read: Any) -> None:
    asked: list[tuple[str, str]] = []

    def credential(settings: Mapping[str, Any], provider: str, name: str) -> str | None:
        asked.append((provider, name))
        return {"key": "plugin-key", "live.secret": "plugin-secret"}.get(name)

    text = '[providers.acme]\nadapter = "broker"\ncredentials = { secret = { env = "OLD_SECRET" } }\n'
    settings = read(text, credential=credential)
    assert settings.providers[0].accounts[0].credentials == {"key": "plugin-key", "secret": "old-secret-value"}
    assert asked == [("acme", "key"), ("acme", "secret")]
    text = '[providers.acme]\nadapter = "broker"\naccounts.live.credentials.key = { env = "BROKER_KEY" }\n'
    settings = read(text, credential=credential)
    assert settings.providers[0].accounts[0].credentials == {"key": "broker-key-value", "secret": "plugin-secret"}


def test_plugin_tables(read: Any) -> None:
    @attrs.frozen
    class Recorder:
        directory: str
        offset: int = 0

    got: list[Any] = []
    text = '[plugins.recorder]\ndirectory = "/var"\noffset = -3\n'
    settings = read(text, plugin_tables={"recorder": Recorder}, check_plugins=lambda tables, apps: got.append(tables))
    assert settings.plugins == {"recorder": Recorder("/var", -3)}
    assert got == [settings.plugins]


def test_tls_files_are_relative_to_the_configuration(read: Any) -> None:
    settings = read('[server]\nlisten = "0.0.0.0:443"\ntls_cert = "cert.pem"\ntls_key = "key.pem"\n')
    assert settings.server.tls == Tls(Path("/etc/tickrelay/cert.pem"), Path("/etc/tickrelay/key.pem"))
    assert "0.0.0.0" not in "".join(settings.notes)


def test_plain_text_beyond_loopback_is_noted(read: Any) -> None:
    notes = read('[server]\nlisten = "0.0.0.0:80"\n').notes
    assert notes[0] == (
        "server.listen: 0.0.0.0 may be reached from other machines, without TLS: put a TLS proxy in front"
    )


def test_the_demo_may_use_its_own_values() -> None:
    app = {"id": 1, "key": "demo-key", "secret": "demo-secret"}
    document = {"allow_inline_secrets": True, "apps": {"demo": app}, "api_keys": {"demo": {"key": "demo-api-key"}}}
    settings = settings_of(document, Path("demo"), {}, {}, lambda path: "", demo=True)
    assert settings.apps[0].secrets == ("demo-secret",)
    with pytest.raises(SettingsError) as refused:
        settings_of(document, Path("demo"), {}, {}, lambda path: "")
    assert refused.value.lines == tuple(
        f"{path}: this is the demo's value, known to everybody; choose your own"
        for path in ("api_keys.demo.key", "apps.demo.key", "apps.demo.secret")
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:6001", ("127.0.0.1", 6001)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:65535", ("::1", 65535)),
    ],
)
def test_listen(text: str, expected: tuple[str, int]) -> None:
    assert parse_listen(text) == expected


@pytest.mark.parametrize("text", ["6001", ":6001", "host:", "::1:6001", "host:65536", "host:-1", "a b:1", "h:１"])
def test_listen_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="write HOST:PORT, for example 127.0.0.1:6001"):
        parse_listen(text)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (FileNotFoundError(2, "No such file or directory"), "cannot read c.toml: No such file or directory"),
        (PermissionError(13, "Permission denied"), "cannot read c.toml: Permission denied"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), "cannot read c.toml: it is not UTF-8 text"),
    ],
)
def test_an_unreadable_file_is_one_line(error: Exception, line: str) -> None:
    def read_file(path: Path) -> str:
        raise error

    with pytest.raises(SettingsError) as refused:
        load(Path("c.toml"), {}, {}, read_file)
    assert refused.value.lines == (line,)


def test_what_is_not_toml_is_one_line() -> None:
    with pytest.raises(SettingsError) as refused:
        load(Path("c.toml"), {}, {}, lambda path: "[server\nlisten = 1")
    (line,) = refused.value.lines
    assert line.startswith("c.toml is not TOML: ")
    assert "line 1" in line
