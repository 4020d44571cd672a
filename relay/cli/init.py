"""``tickrelay init``: write a first configuration and its secrets, asking for missing answers on a terminal."""

import getpass
import json
import os
import re
import secrets
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import field, frozen

from relay.errors import OperatorError, path_text, suggestion

if TYPE_CHECKING:
    from relay.adapter import Adapter
    from relay.plugins.manager import Plugins

_is_origin = re.compile(r"(?:https?://)?[A-Za-z0-9*._-]+(?::[0-9]{1,5})?", re.ASCII).fullmatch

_HEAD = """\
# `tickrelay config --reference` prints every setting, `tickrelay check` what is wrong here.

[server]
listen = "127.0.0.1:6001"
# public_url = "https://feed.example.com" # where a TLS proxy stands in front

[apps.main]
id = 1001
key = "{key}"
secret = {{ file = "{secret}" }}
# Sites whose pages may connect; programs that are no browsers always may.
allowed_origins = {origins}

# The key of whoever runs this relay: `tickrelay status`, the dashboard. Its text is in the file {operator}.
[api_keys.operator]
key = {{ file = "{operator}" }}
streams = ["*"]
accounts = ["*"]
# trade = ["*"]   # what it may order on; better a key of its own for each strategy: `tickrelay key NAME`
"""

_NO_PROVIDER = """
# A provider, here one whose public feed needs no credentials. `tickrelay plugins` lists the adapters.
# [providers.binance]
# pinned = ["quote BTC/USDT"]
"""


@frozen
class NewProvider:
    """One provider of the new configuration.

    Attributes:
        name: its name in the configuration.
        adapter: its adapter.
        secrets: credentials that were typed, by name. Those that were not come from environment variables.
    """

    name: str
    adapter: "type[Adapter]"
    secrets: Mapping[str, str] = field(factory=dict, repr=False)

    def variable(self, credential: str) -> str:
        """Return the environment variable of a credential that was not typed."""
        return re.sub(r"[^A-Z0-9]", "_", f"{self.name}_{credential}".upper())

    def file(self, credential: str) -> str:
        """Return the name of the file of a credential that was typed."""
        return f"{self.name}-{credential}".replace("_", "-")


def init(
    plugins: "Plugins",
    config: Path,
    origins: Sequence[str] | None,
    providers: Sequence[str] | None,
) -> None:
    """Write a first configuration: one app, one API key, and the named providers with their credentials.

    Args:
        plugins: the installed plugins, whose adapters the providers may have.
        config: the file to write; it must not exist.
        origins: sites whose pages may connect. None: ask on a terminal, otherwise no site.
        providers: `NAME` or `NAME=ADAPTER` each. None: ask on a terminal, otherwise no provider.

    Raises:
        OperatorError: an answer is wrong, or a file exists already. Nothing was written then.
    """
    asks = sys.stdin.isatty()
    if origins is None:
        origins = _words("Sites whose pages may connect, separated by spaces (none: only programs connect): ", asks)
    for each in origins:
        if _is_origin(each) is None:
            raise OperatorError(f"--origin {each!r:.200}: write it like https://app.example.com, *.example.com or *")
    adapters = plugins.adapters()
    if providers is None:
        known = ", ".join(sorted(adapters))
        providers = _words(f"Providers, separated by spaces (none: name them later).\n  {known}\n: ", asks)
    chosen = [_provider(each, adapters) for each in providers]
    if repeated := [each.name for each in chosen if sum(other.name == each.name for other in chosen) > 1]:
        raise OperatorError(f"--provider {repeated[0]}: named twice; a second one of an adapter is NAME=ADAPTER")
    if asks:
        chosen = [_with_secrets(each) for each in chosen]

    beside = {"app-secret": secrets.token_urlsafe(32), "operator-key": secrets.token_urlsafe(32)}
    beside |= {each.file(name): value for each in chosen for name, value in each.secrets.items()}
    text = _HEAD.format(
        key=secrets.token_hex(10), secret="app-secret", operator="operator-key", origins=json.dumps(list(origins))
    )
    text += "".join("\n".join(["", *_table(each), ""]) for each in chosen) or _NO_PROVIDER
    # Write all files or none: a partial configuration would make a second attempt fail.
    paths = [config, *(config.with_name(name) for name in beside)]
    if taken := [path for path in paths if path.exists() or path.is_symlink()]:
        raise OperatorError(f"cannot write {taken[0]}: File exists")
    write_new(config, text, mode=0o644)
    for name, value in beside.items():
        write_new(config.with_name(name), value + "\n", mode=0o600)
    for line in _report(config, beside, chosen):
        print(line)


def _words(question: str, asks: bool) -> list[str]:
    return input(question).replace(",", " ").split() if asks else []


def _provider(text: str, adapters: "Mapping[str, type[Adapter]]") -> NewProvider:
    """Read `NAME` or `NAME=ADAPTER`."""
    from relay.model.channels import valid_provider

    name, _, adapter = text.partition("=")
    adapter = adapter or name
    if adapter not in adapters:
        raise OperatorError(f"--provider {text!r:.200}: no adapter is named {adapter}; {suggestion(adapter, adapters)}")
    if not valid_provider(name):
        raise OperatorError(
            f"--provider {text!r:.200}: a provider's name is lower-case letters, digits, - and _, and not `all`"
        )
    return NewProvider(name, adapters[adapter])


def _with_secrets(provider: NewProvider) -> NewProvider:
    """Ask for the credentials of a provider. An empty answer leaves one to its environment variable."""
    typed = {}
    for name in provider.adapter.credentials:
        value = getpass.getpass(f"{provider.name}: {name} (empty: from ${provider.variable(name)}): ").strip()
        if value:
            typed[name] = value
    return NewProvider(provider.name, provider.adapter, typed)


def _table(provider: NewProvider) -> Iterator[str]:
    """Yield the lines of a provider's tables."""
    adapter, path = provider.adapter, ("providers", provider.name)
    yield f"[{path_text(path)}]"
    if provider.name != adapter.name:
        yield f"adapter = {json.dumps(adapter.name)}"
    offers = {offer.kind: offer for offer in adapter.offers if "symbol" in offer.example}
    for kind in ("quote", "public_trade", "depth"):
        if kind in offers:
            symbol = offers[kind].example["symbol"]
            yield "# Streams to keep subscribed without subscribers; all others are subscribed on demand."
            # A broker may not have the symbol of the example, so the line is a comment.
            yield f"{'# ' if adapter.credentials else ''}pinned = {json.dumps([f'{kind} {symbol}'], ensure_ascii=False)}"
            break
    if "account" in {offer.kind for offer in adapter.offers}:
        yield ""
        yield "# The account's name in channels and commands."
        yield f"[{path_text((*path, 'accounts', 'main'))}]"
    if adapter.options:
        yield ""
        yield f"[{path_text((*path, 'options'))}]"
        for option in adapter.options:
            named = all(choice in option.about for choice in option.choices)
            meaning = option.about if named else f"{option.about} ({', '.join(option.choices)})"
            yield f"# {option.name} = {json.dumps(option.default)}   # {meaning}"
    if adapter.credentials:
        yield ""
        yield f"[{path_text((*path, 'credentials'))}]"
        for name in adapter.credentials:
            source = ("file", provider.file(name)) if name in provider.secrets else ("env", provider.variable(name))
            yield f"{name} = {{ {source[0]} = {json.dumps(source[1])} }}"


def _report(config: Path, beside: Mapping[str, str], providers: Sequence[NewProvider]) -> Iterator[str]:
    """Yield the names of the written files, and the next steps."""
    yield f"wrote {config}, and next to it, readable by you only: {', '.join(beside)}"
    path = shlex.quote(str(config))
    yield "next:"
    if not providers:
        yield f"  name a provider in {config}"
    for each in providers:
        for name in each.adapter.credentials:
            if name not in each.secrets:
                yield f"  export {each.variable(name)}=...   # {each.name}'s {name}"
    yield f"  tickrelay check {path}"
    yield f"  tickrelay serve -c {path}"
    key = shlex.quote(str(config.with_name("operator-key")))
    yield f'  export TICKRELAY_URL=http://127.0.0.1:6001 TICKRELAY_API_KEY="$(cat {key})"; tickrelay status'


def write_new(path: Path, text: str, *, mode: int) -> None:
    """Write a file that does not exist yet. Raises OperatorError if it does or cannot be written."""
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise OperatorError(f"cannot write {path}: {error.strerror or error}") from error
