"""Apps and API keys: who may connect, and what they may read."""

import re
from collections.abc import Iterable
from typing import Any

from attrs import asdict

from relay.auth import ApiKey, hash_key
from relay.errors import suggestion
from relay.model.channels import ALL, split_prefix
from relay.model.events import MARKET_KINDS
from relay.pusher.apps import App
from relay.settings.check import DEMO_API_KEY, Check
from relay.settings.tables import ApiKeyTable, AppTable

_key = re.compile(r"[A-Za-z0-9_.-]+").fullmatch
_digits = re.compile(r"[0-9]+", re.ASCII).fullmatch
_key_name = re.compile(r"[A-Za-z0-9_.@-]{1,128}").fullmatch

#: Keys of an app's table that are not attributes of `App` as they stand.
_NOT_OF_APP = ("id", "key", "secret", "previous_secret", "non_numeric_id")


def resolve_apps(check: Check) -> tuple[App, ...]:
    """Return the apps; what is wrong with them is reported."""
    tables = check.reading.value.apps
    if not tables:
        check.wrong("at least one app is needed, [apps.NAME] with id, key and secret", "apps")
    apps = [app for name, table in tables.items() if (app := _app(check, name, table)) is not None]
    _unique(check, [(name, "id", str(table.id)) for name, table in tables.items() if table.id is not None])
    _unique(check, [(name, "key", table.key) for name, table in tables.items() if table.key is not None])
    return tuple(apps)


def _unique(check: Check, values: Iterable[tuple[str, str, str]]) -> None:
    seen: dict[str, str] = {}
    for name, key, value in values:
        if value in seen:
            check.wrong(f"{value} is already the {key} of apps.{seen[value]}", "apps", name, key)
        seen.setdefault(value, name)


def _app(check: Check, name: str, table: AppTable) -> App | None:
    id, key = _id(check, name, table), _app_key(check, name, table)
    if table.secret is None:
        check.wrong("missing", "apps", name, "secret")
    secret = check.secret(table.secret, "apps", name, "secret")
    previous = check.secret(table.previous_secret, "apps", name, "previous_secret")
    if id is None or key is None or secret is None:
        return None
    rest: dict[str, Any] = asdict(table, recurse=False, filter=lambda attribute, _: attribute.name not in _NOT_OF_APP)
    rest["secrets"] = [secret] if previous is None else [secret, previous]
    return App(id=id, key=key, name=name, **rest)


def _id(check: Check, name: str, table: AppTable) -> str | None:
    path = ("apps", name, "id")
    if table.id is None or table.id == "":
        check.wrong("missing", *path)
        return None
    id = str(table.id)
    if not table.non_numeric_id and _digits(id) is None:
        check.wrong("must be digits, as the Pusher server libraries demand; non_numeric_id = true allows others", *path)
        return None
    if re.search(r"[/?#%\s]", id):
        check.wrong("must not contain /, ?, #, % or spaces", *path)
        return None
    return id


def _app_key(check: Check, name: str, table: AppTable) -> str | None:
    path = ("apps", name, "key")
    if table.key is None:
        check.wrong("missing", *path)
    elif _key(table.key) is None:
        check.wrong("must be letters, digits, -, _ and .", *path)
    elif not check.well_known(table.key, *path):
        return table.key
    return None


def resolve_api_keys(check: Check) -> tuple[ApiKey, ...]:
    """Return the API keys by their digests; what is wrong with them is reported."""
    keys: list[ApiKey] = []
    for name, table in check.reading.value.api_keys.items():
        _patterns(check, name, table)
        digest = _digest(check, name, table)
        if _key_name(name) is None:
            check.wrong("the name of an API key is letters, digits, -, _, . and @", "api_keys", name)
        elif digest is not None:
            same = next((key.name for key in keys if key.digest == digest), None)
            if same is not None:
                check.wrong(f"is the same key as api_keys.{same}", "api_keys", name)
            keys.append(
                ApiKey(name=name, digest=digest, streams=table.streams, accounts=table.accounts, trade=table.trade)
            )
    return tuple(keys)


def _digest(check: Check, name: str, table: ApiKeyTable) -> str | None:
    if (table.key is None) == (table.sha256 is None):
        if not check.reading.spoiled("api_keys", name, "key") and not check.reading.spoiled("api_keys", name, "sha256"):
            check.wrong("write either key or sha256", "api_keys", name)
        return None
    if table.sha256 is None:
        value = check.secret(table.key, "api_keys", name, "key")
        return None if value is None else hash_key(value)
    if table.sha256 == hash_key(DEMO_API_KEY) and check.well_known(DEMO_API_KEY, "api_keys", name, "sha256"):
        return None
    return table.sha256


def _patterns(check: Check, name: str, table: ApiKeyTable) -> None:
    """Report patterns that cannot match anything: a right that is misspelt must not be found out in production."""
    providers = set(check.reading.value.providers)
    for pattern in table.streams:
        prefix, rest = split_prefix(pattern)
        kind, _, tail = rest.partition(".")
        if prefix:
            check.wrong_item(f"{pattern}: write it without {prefix}", "api_keys", name, "streams")
        elif "*" not in kind and kind not in MARKET_KINDS | {"status"}:
            near = suggestion(kind, MARKET_KINDS | {"status"})
            check.wrong_item(f"{pattern}: no stream is of kind {kind}; {near}", "api_keys", name, "streams")
        else:
            _provider(check, pattern, tail, providers | {ALL}, "api_keys", name, "streams")
    for key, patterns in (("accounts", table.accounts), ("trade", table.trade)):
        for pattern in patterns:
            _provider(check, pattern, pattern, providers, "api_keys", name, key)


def _provider(check: Check, pattern: str, tail: str, known: set[str], *path: str) -> None:
    provider, _, _ = tail.partition(".")
    if provider and "*" not in provider and provider not in known and not check.reading.spoiled("providers"):
        check.wrong_item(f"{pattern}: no provider is named {provider}; {suggestion(provider, known - {ALL})}", *path)
