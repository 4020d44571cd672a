"""Check the tables of a configuration: the server's, the apps and the API keys. Providers have a module of their own.

A check never raises for a mistake of the operator: it adds a problem to its `Check` and goes on.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from attrs import Factory, asdict, define, field, frozen

from relay.auth import ApiKey, hash_key
from relay.errors import nearest, suggestion
from relay.model.channels import ALL
from relay.model.patterns import PATTERN_KINDS, AccountPattern, PatternError, account_pattern, stream_pattern
from relay.pusher.apps import App
from relay.settings.structure import Problem, Reading
from relay.settings.tables import (
    HOW_TO_WRITE,
    ApiKeyTable,
    AppTable,
    Cluster,
    Document,
    ProviderTable,
    SecretRef,
    Server,
    Tls,
)

DEMO_APP_ID = "1"
DEMO_KEY = "demo-key"
DEMO_SECRET = "demo-secret"
DEMO_SECOND_APP_ID = "2"
DEMO_SECOND_KEY = "demo-second-key"
DEMO_SECOND_SECRET = "demo-second-secret"
DEMO_API_KEY = "demo-api-key"
DEMO_URL = "http://127.0.0.1:6001"

DEMO_VALUES = frozenset({DEMO_KEY, DEMO_SECRET, DEMO_SECOND_KEY, DEMO_SECOND_SECRET, DEMO_API_KEY})
"""Public values that are refused outside the demo."""

_listen = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s:\[\]]+)):(?P<port>[0-9]{1,5})", re.ASCII).fullmatch
_key = re.compile(r"[A-Za-z0-9_.-]+").fullmatch
_digits = re.compile(r"[0-9]+", re.ASCII).fullmatch
_key_name = re.compile(r"[A-Za-z0-9_.@-]{1,128}").fullmatch

#: Keys of an app's table that `App` does not take under the same name.
_NOT_OF_APP = ("id", "key", "secret", "previous_secret", "non_numeric_id")


class SecretError(ValueError):
    """Raised when a secret cannot be read; the message names the variable or the file, never the value."""


@frozen
class SecretReader:
    """Read secrets, and store their values so that logs can mask them.

    Attributes:
        environ: the environment.
        read_file: returns a file's text; raises OSError or UnicodeDecodeError.
        base: relative file names are relative to this directory.
        allow_inline: accept text in the configuration.
        values: every secret read so far.
    """

    environ: Mapping[str, str] = field(repr=False)
    read_file: Callable[[Path], str]
    base: Path
    allow_inline: bool = False
    values: set[str] = field(repr=False, default=Factory(set))

    def read(self, ref: SecretRef) -> str:
        """Return the secret.

        Raises:
            SecretError: it is missing or empty, or the configuration holds its text where that is not allowed.
        """
        if ref.env is not None:
            value = self._from_environ(ref.env)
        elif ref.file is not None:
            value = self._from_file(ref.file)
        else:
            value = self._from_text(ref.inline or "")
        self.values.add(value)
        return value

    def _from_environ(self, name: str) -> str:
        value = self.environ.get(name)
        if value is None:
            raise SecretError(f"environment variable {name} is not set")
        if not value.strip():
            raise SecretError(f"environment variable {name} is empty")
        return value

    def _from_file(self, name: str) -> str:
        path = self.base / name
        try:
            value = self.read_file(path).strip()
        except OSError as error:
            raise SecretError(f"cannot read {path}: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise SecretError(f"cannot read {path}: it is not UTF-8 text") from error
        if not value:
            raise SecretError(f"file {path} is empty")
        return value

    def _from_text(self, value: str) -> str:
        if not self.allow_inline:
            raise SecretError(
                f"a secret must not stand in this file; {HOW_TO_WRITE}, or set allow_inline_secrets = true"
            )
        if not value.strip():
            raise SecretError("the secret is empty")
        return value


@define
class Check:
    """A configuration that is being checked, and its problems.

    Attributes:
        reading: the tables, with the paths that were cut out of them.
        secrets: reads secrets.
        demo: True allows the values of the demo.
        problems: all problems so far.
        notes: warnings.
    """

    reading: Reading[Document]
    secrets: SecretReader
    demo: bool = False
    problems: list[Problem] = Factory(list)
    notes: list[str] = Factory(list)

    def wrong(self, message: str, *path: str | int) -> None:
        """Report a problem, unless it is only a consequence of an earlier one at that path."""
        if not self.reading.spoiled(*path):
            self.problems.append(Problem(path, message))

    def wrong_item(self, message: str, *path: str | int) -> None:
        """Report a problem of an item of a list, even if other items of the list were cut out."""
        self.problems.append(Problem(path, message))

    def secret(self, ref: SecretRef | None, *path: str) -> str | None:
        """Return a secret. Return None if it is absent, or if it cannot be read, which is reported."""
        if ref is None:
            return None
        try:
            value = self.secrets.read(ref)
        except SecretError as error:
            self.wrong(str(error), *path)
            return None
        return None if self.well_known(value, *path) else value

    def well_known(self, value: str, *path: str) -> bool:
        """Report a value of the demo outside the demo. Return True if it was one."""
        if self.demo or value not in DEMO_VALUES:
            return False
        self.wrong("this is the demo's value, known to everybody; choose your own", *path)
        return True


# --- the server ---


def parse_listen(text: str) -> tuple[str, int]:
    """Return (host, port) of ``HOST:PORT`` or ``[IPV6]:PORT``.

    Raises:
        ValueError: it has neither form; the message says how to write it.
    """
    match = _listen(text)
    if match is not None and int(match["port"]) > 65535:
        raise ValueError(
            f"port {match['port']} of {text!r}: a port is a number up to 65535; write HOST:PORT, for example 127.0.0.1:6001"
        )
    if match is None:
        raise ValueError(f"not an address to listen on: {text!r}; write HOST:PORT, for example 127.0.0.1:6001")
    return match["six"] or match["host"], int(match["port"])


def is_loopback(host: str) -> bool:
    """Return True if only this machine can reach ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_url(check: Check, url: str | None, schemes: tuple[str, ...], *path: str) -> None:
    """Report a URL that has no host or a scheme that is not in ``schemes``."""
    if url is None:
        return
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in schemes or not parts.netloc:
        check.wrong(f"must be a URL that starts with {' or '.join(f'{scheme}://' for scheme in schemes)}", *path)


def resolve_server(check: Check) -> Server:
    """Return the settings of the port and report their problems."""
    table = check.reading.value.server
    host, port = "127.0.0.1", 0
    try:
        host, port = parse_listen(table.listen)
    except ValueError as error:
        check.wrong(str(error), "server", "listen")
    check_url(check, table.public_url, ("http", "https"), "server", "public_url")
    tls = _tls(check)
    if tls is None and not is_loopback(host):
        check.notes.append(
            f"server.listen: {host} may be reached from other machines, without TLS: put a TLS proxy in front"
        )
    return Server(
        host=host,
        port=port,
        tls=tls,
        public_url=table.public_url,
        hosts=_hosts(check, host),
        behind_proxy=table.behind_proxy,
        status_public=table.status_public,
        limits=table.limits,
        subscribers=table.subscribers,
    )


_host_pattern = re.compile(r"[a-z0-9_.-]+|\[[0-9a-f:.]+\]|\*").fullmatch


def _hosts(check: Check, listen: str) -> frozenset[str] | None:
    """Return the names that the Host header may have, None for any."""
    table = check.reading.value.server
    for n, name in enumerate(table.hosts):
        if _host_pattern(name.lower()) is None:
            check.wrong_item(
                "must be a host's name or address without port, IPv6 in brackets, or *", "server", "hosts", n
            )
    if table.hosts:
        return None if "*" in table.hosts else frozenset(name.lower().removesuffix(".") for name in table.hosts)
    if not is_loopback(listen):
        return None
    public = _host_of(table.public_url)
    if table.behind_proxy and public is None:
        check.notes.append(
            "server.hosts: every Host header is answered, since neither hosts nor public_url says what the proxy passes on"
        )
        return None
    own = f"[{listen}]" if ":" in listen else listen
    return frozenset({"localhost", "127.0.0.1", "[::1]", own.lower()} | ({public} if public else set()))


def _host_of(url: str | None) -> str | None:
    try:
        host = urlsplit(url or "").hostname
    except ValueError:
        return None
    return None if host is None else f"[{host}]" if ":" in host else host


def note_open_origins(check: Check) -> None:
    """Note apps that pages of every site may use, where browsers reach the relay from elsewhere."""
    server = check.reading.value.server
    for name, table in check.reading.value.apps.items():
        if table.enabled and "*" in table.allowed_origins and (server.public_url or server.tls_cert):
            check.notes.append(
                f"apps.{name}.allowed_origins: pages of every site may connect (*); name the sites of yours"
            )


def _tls(check: Check) -> Tls | None:
    table = check.reading.value.server
    cert, key = _pem(check, table.tls_cert, "tls_cert"), _pem(check, table.tls_key, "tls_key")
    if (table.tls_cert is None) != (table.tls_key is None):
        absent = "tls_cert" if table.tls_cert is None else "tls_key"
        check.wrong("missing; tls_cert and tls_key belong together", "server", absent)
    return Tls(cert, key) if cert is not None and key is not None else None


def _pem(check: Check, name: str | None, key: str) -> Path | None:
    if name is None:
        return None
    path = check.secrets.base / name
    try:
        text = check.secrets.read_file(path)
    except OSError as error:
        check.wrong(f"cannot read {path}: {error.strerror or error}", "server", key)
        return None
    except UnicodeDecodeError:
        text = ""
    if "-----BEGIN " not in text:
        check.wrong(f"{path} is not a PEM file", "server", key)
    return path


def resolve_store(check: Check, default: Path | None) -> Path | Cluster | None:
    """Return the file of the store, None for one in memory, or the cluster, and report a URL that is none of these."""
    url = check.reading.value.store.url
    if url is None:
        return default
    if url.startswith(("redis://", "rediss://")):
        cluster = check.reading.value.cluster
        return Cluster(url=url, node=cluster.node, role=cluster.role, lease=cluster.lease, waves=cluster.waves)
    if url == "memory:":
        return None
    scheme, found, name = url.partition("sqlite:///")
    if scheme or not found or not name or "?" in name:
        check.wrong("must be memory:, sqlite:///PATH or redis://HOST:PORT/DB", "store", "url")
        return None
    return check.secrets.base / name


# --- apps and API keys ---


def resolve_apps(check: Check) -> tuple[App, ...]:
    """Return the apps and report their problems."""
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
    rest["accounts"] = _account_patterns(check, table.accounts, "apps", name, "accounts")
    if rest["accounts"]:
        check.notes.append(
            f"apps.{name}.accounts: whoever has this app's secret reads orders, positions and balances of "
            f"{', '.join(rest['accounts'])} without an API key"
        )
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
    """Return the API keys and report their problems."""
    keys: list[ApiKey] = []
    for name, table in check.reading.value.api_keys.items():
        streams = _stream_patterns(check, table.streams, "api_keys", name, "streams")
        accounts = _account_patterns(check, table.accounts, "api_keys", name, "accounts")
        trade = _account_patterns(check, table.trade, "api_keys", name, "trade")
        inspect = _account_patterns(check, table.inspect, "api_keys", name, "inspect")
        digest = _digest(check, name, table)
        if _key_name(name) is None:
            check.wrong("the name of an API key is letters, digits, -, _, . and @", "api_keys", name)
        elif digest is not None:
            same = next((key.name for key in keys if key.digest == digest), None)
            if same is not None:
                check.wrong(f"is the same key as api_keys.{same}", "api_keys", name)
            app = _app_of(check, name, table)
            rights = {"streams": streams, "accounts": accounts, "trade": trade, "inspect": inspect}
            keys.append(ApiKey(name=name, digest=digest, app=app, **rights))
    return tuple(keys)


def _app_of(check: Check, name: str, table: ApiKeyTable) -> str | None:
    apps = check.reading.value.apps
    if table.app is None or table.app in apps:
        id = None if table.app is None else apps[table.app].id
        return None if id is None else str(id)
    check.wrong(f"no app is named {table.app}; {suggestion(table.app, apps)}", "api_keys", name, "app")
    return None


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


def _stream_patterns(check: Check, patterns: Iterable[str], *path: str) -> list[str]:
    """Return the patterns that can match something; report the others, so that a misspelt right is noticed at once."""
    known = {*check.reading.value.providers, ALL}
    good = []
    for text in patterns:
        try:
            pattern = stream_pattern(text)
        except PatternError as error:
            check.wrong_item(str(error), *path)
            continue
        good.append(text)
        if not any(map(pattern.provider.fullmatch, known)) and not check.reading.spoiled("providers"):
            check.wrong_item(f"{text}: {_no_provider(pattern.provider_part, known - {ALL}, text)}", *path)
    return good


def _no_provider(name: str, known: set[str], pattern: str) -> str:
    kind = nearest(name, PATTERN_KINDS)
    if kind is not None and pattern.startswith(name) and nearest(name, known) is None:
        return f"no stream is of kind {name}; did you mean {kind}?"
    return f"no provider is named {name}; {suggestion(name, known)}"


def _account_patterns(check: Check, patterns: Iterable[str], *path: str) -> list[str]:
    """Return the patterns that can match an account, and report the others."""
    providers = check.reading.value.providers
    good = []
    for text in patterns:
        try:
            pattern = account_pattern(text)
        except PatternError as error:
            check.wrong_item(str(error), *path)
            continue
        good.append(text)
        meant = {name: table for name, table in providers.items() if pattern.provider.fullmatch(name)}
        if check.reading.spoiled("providers"):
            continue
        if not meant and not text.startswith("*"):
            check.wrong_item(f"{text}: {_no_provider(pattern.provider_part, set(providers), '')}", *path)
        elif meant and not any(_may_have(table, pattern) for table in meant.values()):
            accounts = {account for table in meant.values() for account in table.accounts}
            account = text.partition(".")[2]
            check.wrong_item(f"{text}: no account is named {account}; {suggestion(account, accounts)}", *path)
    return good


def _may_have(table: ProviderTable, pattern: AccountPattern) -> bool:
    """Return True if an account of this provider can match; one that names none may have any."""
    return not table.accounts or any(map(pattern.account.fullmatch, table.accounts))
