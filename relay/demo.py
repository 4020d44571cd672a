"""``tickrelay demo``: run simulated providers, a relay in front of them and a page that shows it.

It has two applications, and a broker with two accounts. Its keys are public, so it listens on loopback only, and an ordinary
configuration refuses them.
"""

import shlex
import shutil
import signal
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import trio
from attrs import evolve

from relay.app import Relay
from relay.model.channels import channel_name
from relay.model.commands import PlaceOrder
from relay.plugins.hookspecs import Simulated
from relay.plugins.manager import Plugins
from relay.provider.http import HttpClient
from relay.settings import (
    DEMO_API_KEY,
    DEMO_APP_ID,
    DEMO_KEY,
    DEMO_SECOND_APP_ID,
    DEMO_SECOND_KEY,
    DEMO_SECOND_SECRET,
    DEMO_SECRET,
    DEMO_URL,
    Settings,
    settings_of,
)

BANNER = """\
tickrelay demo: simulated providers {providers}

  dashboard   {url}/
  trading     {trading}
  catalog     curl -H 'Authorization: Bearer {api_key}' {url}/api/v2/ws/streams

Any Pusher client:

  import Pusher from "pusher-js";
  const options = {{ wsHost: "{host}", wsPort: {port}, forceTLS: false, enabledTransports: ["ws"], cluster: "" }};
  const pusher = new Pusher("{key}", options);
  pusher.subscribe("{channel}").bind("quote", ({{ quote, provider }}) => {{
    console.log(provider, quote.symbol, quote.bid, quote.ask);
  }});

Ctrl-C ends it.
"""


def document(listen: tuple[str, int], simulators: Iterable[tuple[Simulated, tuple[str, str]]]) -> dict[str, Any]:
    """Return the demo's configuration, in the form of ``tickrelay.toml``."""
    host, port = listen
    # Its keys are public and trade, so only pages that this machine serves may use them.
    app = {"client_events": True, "allowed_origins": ["localhost", "127.0.0.1", "[::1]"]}
    first = {**app, "id": DEMO_APP_ID, "key": DEMO_KEY, "secret": DEMO_SECRET, "accounts": ["*"]}
    second = {**app, "id": DEMO_SECOND_APP_ID, "key": DEMO_SECOND_KEY, "secret": DEMO_SECOND_SECRET}
    return {
        "allow_inline_secrets": True,
        "server": {
            "listen": f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            "status_public": True,
            "limits": {"connections": 1000},  # as many as every system has descriptors for
        },
        "apps": {"demo": first, "second": second},
        "api_keys": {"demo": {"key": DEMO_API_KEY, "accounts": ["*"], "trade": ["*"], "inspect": ["*"]}},
        "providers": {
            simulated.provider: {**_with_more_accounts(simulated, provider_table(simulated, *urls)), "required": True}
            for simulated, urls in simulators
        },
    }


def provider_table(simulated: Simulated, ws_url: str, http_url: str) -> dict[str, Any]:
    """Return the provider's table of a configuration whose provider is the running simulator at these URLs."""
    table: dict[str, Any] = {
        "adapter": simulated.adapter,
        "url": ws_url,
        "http_url": http_url,
        "options": dict(simulated.options),
        "symbols": dict(simulated.symbols),
        "pinned": list(simulated.pinned),
    }
    credentials = dict(simulated.credentials)
    if simulated.account is None:
        return {**table, "credentials": credentials}
    return {**table, "accounts": {simulated.account: {"credentials": credentials}}}


def _with_more_accounts(simulated: Simulated, table: dict[str, Any]) -> dict[str, Any]:
    if not simulated.more_accounts:
        return table
    more = {name: {"credentials": dict(given)} for name, given in simulated.more_accounts.items()}
    pinned = [*table["pinned"], *(f"account {name}" for name in more)]
    return {**table, "accounts": {**table["accounts"], **more}, "pinned": pinned}


async def demo(
    listen: tuple[str, int],
    seconds: float | None,
    plugins: Plugins,
    *,
    task_status: trio.TaskStatus[Relay] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run the demo for ``seconds``, or until SIGINT or SIGTERM.

    Raises:
        OSError: the address cannot be listened on.
    """
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with HttpClient() as http, trio.open_nursery() as simulators:
            started = [
                (item.value, await simulators.start(item.value.run)) for item in plugins.collect("relay_simulators")
            ]
            relay = Relay(_settings(document(listen, started), plugins), plugins, http, demo_api_key=DEMO_API_KEY)
            async with trio.open_nursery() as nursery:
                await nursery.start(relay.run)
                print(_banner(relay, [simulated.provider for simulated, _ in started]), flush=True)
                task_status.started(relay)
                with trio.move_on_after(float("inf") if seconds is None else seconds):
                    async for _ in signals:
                        break
                relay.stop()
            simulators.cancel_scope.cancel()


def _settings(tables: Mapping[str, Any], plugins: Plugins) -> Settings:
    settings = settings_of(
        tables,
        Path("demo"),
        {},
        plugins.adapters(),
        Path.read_text,
        plugin_tables=plugins.tables(),
        check_plugins=plugins.check_settings,
        demo=True,
    )
    return evolve(settings, notes=())


def _banner(relay: Relay, providers: list[str]) -> str:
    host, port = relay.addresses[0]
    entries = (entry for provider in relay.providers for entry in provider.catalog())
    quotes = [entry for entry in entries if entry.kind == "quote" and entry.complete(entry.example)]
    channel = channel_name(quotes[-1].stream(quotes[-1].example), "cache-") if quotes else ""
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    return BANNER.format(
        trading=_trading(relay, url),
        providers=", ".join(providers),
        url=url,
        host=host,
        port=port,
        key=DEMO_KEY,
        api_key=DEMO_API_KEY,
        channel=channel,
    )


def _trading(relay: Relay, url: str) -> str:
    """Return a command to paste, for the first pinned quote of a provider that takes orders."""
    elsewhere = "" if url == DEMO_URL else f" --url {url}"
    for provider in relay.providers:
        symbols = [topic.symbol for topic in provider.settings.pinned if topic.kind == "quote"]
        if symbols and PlaceOrder in provider.settings.adapter.commands:
            accounts = [account.name for account in provider.settings.accounts]
            account = f" --account {accounts[0]}" if len(accounts) > 1 else ""
            where = f"--provider {provider.name}{account} --symbol '{symbols[0]}'{elsewhere}"
            return f"{_program()} order place {where} --side buy --quantity 1"
    return "none of the simulated providers takes orders"


def _program() -> str:
    """Return the name under which a shell finds this program: in a virtual environment that is not active, its path."""
    program = Path(sys.argv[0])
    if program.name != "tickrelay" or shutil.which("tickrelay") is not None:
        return "tickrelay"
    here = Path.cwd()
    return shlex.quote(str(program.relative_to(here) if program.is_relative_to(here) else program))
