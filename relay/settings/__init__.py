"""Read ``tickrelay.toml`` into checked `Settings`, or report all of its problems at once."""

from relay.settings.check import (
    DEMO_API_KEY,
    DEMO_APP_ID,
    DEMO_KEY,
    DEMO_SECOND_APP_ID,
    DEMO_SECOND_KEY,
    DEMO_SECOND_SECRET,
    DEMO_SECRET,
    DEMO_URL,
    is_loopback,
    parse_listen,
)
from relay.settings.load import SettingsError, load, reload_changes, settings_of
from relay.settings.reference import Setting, describe_settings, reference
from relay.settings.tables import AccountSettings, LogTable, ProviderSettings, ReplayTable, Server, Settings, Tls

__all__ = [
    "DEMO_API_KEY",
    "DEMO_APP_ID",
    "DEMO_KEY",
    "DEMO_SECOND_APP_ID",
    "DEMO_SECOND_KEY",
    "DEMO_SECOND_SECRET",
    "DEMO_SECRET",
    "DEMO_URL",
    "AccountSettings",
    "LogTable",
    "ProviderSettings",
    "ReplayTable",
    "Server",
    "Setting",
    "Settings",
    "SettingsError",
    "Tls",
    "describe_settings",
    "is_loopback",
    "load",
    "parse_listen",
    "reference",
    "reload_changes",
    "settings_of",
]
