"""Read a configuration file into `Settings`, or report all of its problems at once."""

import tomllib
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from relay.adapter import Adapter
from relay.errors import OperatorError, suggestion
from relay.settings.check import (
    Check,
    SecretReader,
    note_open_origins,
    resolve_api_keys,
    resolve_apps,
    resolve_server,
    resolve_store,
)
from relay.settings.providers import Credential, resolve_providers
from relay.settings.structure import Problem, Reading, structure
from relay.settings.tables import Cluster, Document, ProviderSettings, Settings


class SettingsError(OperatorError):
    """Raised when the configuration cannot be used; ``lines`` are all the reasons."""


def load(
    path: Path,
    environ: Mapping[str, str],
    adapters: Mapping[str, type[Adapter]],
    read_file: Callable[[Path], str],
    **more: Any,
) -> Settings:
    """Read the configuration at ``path``; keyword arguments as those of `settings_of`.

    ``read_file`` returns a file's text, or raises OSError or UnicodeDecodeError; it serves secrets and PEM files too.

    Raises:
        SettingsError: the file cannot be read, is not TOML, or has the problems listed in it.
    """
    try:
        document = tomllib.loads(read_file(path))
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"cannot read {path}: it is not UTF-8 text") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not TOML: {error}") from error
    return settings_of(document, path, environ, adapters, read_file, store=path.with_suffix(".sqlite3"), **more)


def settings_of(
    document: Mapping[str, Any],
    path: Path,
    environ: Mapping[str, str],
    adapters: Mapping[str, type[Adapter]],
    read_file: Callable[[Path], str],
    *,
    plugin_tables: Mapping[str, type] | None = None,
    check_plugins: Callable[[Mapping[str, Any], Collection[str]], object] | None = None,
    credential: Callable[[Mapping[str, Any], str, str], str | None] | None = None,
    store: Path | None = None,
    demo: bool = False,
) -> Settings:
    """Return the settings of a parsed ``document``.

    Args:
        document: as TOML gives it.
        path: its file; relative file names are relative to its directory.
        environ: the environment.
        adapters: by name.
        read_file: as for `load`.
        plugin_tables: ``[plugins.NAME]`` -> attrs class.
        check_plugins: called with those tables and the ids of the apps; raises OperatorError for what plugins refuse.
        credential: called with those tables, the provider and the credential's name for every credential that an adapter
            needs and the configuration does not have.
        store: the store's file where the configuration names none; None for a store in memory.
        demo: allow the demo's well-known values.

    Raises:
        SettingsError: with every problem.
    """
    reading = structure(document, Document)
    tables = Reading(reading.value or Document(), reading.problems, reading.cut)
    secrets = SecretReader(environ, read_file, path.parent, allow_inline=tables.value.allow_inline_secrets)
    check = Check(tables, secrets, demo, problems=list(tables.problems))
    plugins = _plugin_tables(check, plugin_tables or {})
    find: Credential = _nowhere if credential is None else partial(credential, plugins)
    refused: tuple[str, ...] = ()
    if any(problem.path[:1] == ("plugins",) for problem in check.problems):
        find = _unknown
    elif check_plugins is not None:
        try:
            check_plugins(plugins, {str(app.id) for app in tables.value.apps.values()})
        except OperatorError as error:
            refused = error.lines
    server, apps, api_keys = resolve_server(check), resolve_apps(check), resolve_api_keys(check)
    note_open_origins(check)
    providers = resolve_providers(check, adapters, find)
    stored = resolve_store(check, store)
    if check.problems or refused:
        raise SettingsError([*map(str, sorted(check.problems, key=_place)), *refused])
    if isinstance(stored, Cluster):
        check.notes.append(
            "store.url: with several relays, positions in the provider `all`, the taps of plugins, and the budgets of "
            "clients and addresses (costs) are each relay's own; everything else is that of all"
        )
    if not providers:
        check.notes.append("providers: none is enabled, only the applications' own events will flow")
    return Settings(
        path=path,
        server=server,
        apps=apps,
        api_keys=api_keys,
        providers=providers,
        history=tables.value.history,
        outbox=tables.value.outbox,
        commands=tables.value.commands,
        store=stored if isinstance(stored, Path) else None,
        cluster=stored if isinstance(stored, Cluster) else None,
        store_event_bytes=tables.value.store.event_bytes,
        costs=tables.value.costs,
        log=tables.value.log,
        plugins=plugins,
        secret_values=frozenset(secrets.values),
        notes=tuple(check.notes),
    )


def _nowhere(provider: str, name: str) -> None:
    return None


def _unknown(provider: str, name: str) -> str:
    """Stand in for plugins whose own settings are wrong, so that their credentials are not reported as missing."""
    return ""


def _plugin_tables(check: Check, classes: Mapping[str, type]) -> dict[str, Any]:
    written = check.reading.value.plugins
    for name in written:
        if name not in classes:
            check.wrong(f"no plugin reads this table; {suggestion(name, classes)}", "plugins", name)
    tables: dict[str, Any] = {}
    for name, cls in classes.items():
        reading: Reading[Any] = structure(written.get(name, {}), cls, ("plugins", name), negative=True)
        check.problems += reading.problems
        tables[name] = reading.value
    return tables


def _place(problem: Problem) -> tuple[str, ...]:
    """Return the sort key that keeps the problems of one table together, in the order they were found."""
    return tuple(map(str, problem.path[:2]))


def reload_changes(old: Settings, new: Settings) -> tuple[list[str], list[str]]:
    """Return the names of the settings that differ: those a running relay applies, and those that need a restart."""
    applied = [name for name in ("apps", "api_keys", "costs") if getattr(old, name) != getattr(new, name)]
    restart = [
        f"{table.name}.{field.name}"
        for table in attrs.fields(Settings)
        if table.name in ("server", "history", "outbox", "commands", "log")
        for field in attrs.fields(type(getattr(new, table.name)))
        if getattr(getattr(old, table.name), field.name) != getattr(getattr(new, table.name), field.name)
    ]
    if old.store_event_bytes != new.store_event_bytes:
        restart.append("store.event_bytes")
    restart += [name for name in ("store", "cluster", "plugins") if getattr(old, name) != getattr(new, name)]
    before, after = ({provider.name: provider for provider in each.providers} for each in (old, new))
    for name in dict.fromkeys((*before, *after)):
        here, there = before.get(name), after.get(name)
        if here is None or there is None:
            restart.append(f"providers.{name}")
            continue
        known = {account.name: account.credentials for account in here.accounts}
        for account in there.accounts:
            where = f"providers.{name}" + (f".accounts.{account.name}" if account.name else "")
            if account.name not in known:
                restart.append(where)
            elif known[account.name] != account.credentials:
                applied.append(f"{where}.credentials")
        restart += [f"providers.{name}.accounts.{gone}" for gone in known.keys() - {a.name for a in there.accounts}]
        restart += [
            f"providers.{name}.{field.name}"
            for field in attrs.fields(ProviderSettings)
            if field.name != "accounts" and getattr(here, field.name) != getattr(there, field.name)
        ]
    return applied, restart
