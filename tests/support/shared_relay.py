"""One relay for all tests of a module: simulated brokers and a synthetic venue, in a thread of its own.

The tests are synchronous, so what they try (the command line, a client on trio or asyncio) runs its own event loop.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio
from attrs import define, field

from relay.app import Relay
from relay.demo import document
from relay.plugins.manager import load_plugins
from relay.provider.http import HttpClient
from relay.settings import settings_of
from support.deadlines import WITHIN

#: Name -> API key and grants. `main` may do everything, `trader` trades on one account, `reader` reads market data only.
KEYS = {
    "main": {"key": "main-key-of-the-test", "accounts": ["*"], "trade": ["*"]},
    "trader": {"key": "trader-key-of-the-test", "trade": ["helio.main"]},
    "reader": {"key": "reader-key-of-the-test", "streams": ["quote.*", "status.*"]},
}
PROVIDERS = ("helio", "scaletrade", "synthetic")


@define
class SharedRelay:
    """The relay, and how to reach into its thread."""

    port: int = 0
    relay: Relay | None = None
    _token: trio.lowlevel.TrioToken | None = None
    _ready: threading.Event = field(factory=threading.Event)
    _failure: list[BaseException] = field(factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function in the relay's thread and return its result."""
        return trio.from_thread.run_sync(partial(function, *arguments), trio_token=self._token)

    def close_connections(self, code: int = 4200) -> None:
        """Let the relay close every subscriber; by default with the code that says: come back at once."""
        assert self.relay is not None
        for app in self.relay.hub._by_id.values():
            for session in list(app.sessions.values()):
                self.call(lambda session=session: session.end(code, "closed by the test", trio.current_time()))

    async def _serve(self, stopped: "trio.Event", more: dict[str, Any]) -> None:
        plugins = load_plugins()
        async with HttpClient() as http, trio.open_nursery() as nursery:
            simulators = [
                item.value for item in plugins.collect("relay_simulators") if item.value.provider in PROVIDERS
            ]
            started = [(each, await nursery.start(each.run)) for each in simulators]
            described = document(("127.0.0.1", 0), started) | {"api_keys": KEYS}
            described["providers"] |= more
            settings = settings_of(described, Path("test"), {}, plugins.adapters(), Path.read_text, demo=True,
                                   plugin_tables=plugins.tables(), check_plugins=plugins.check_settings)  # fmt: skip
            self.relay = Relay(settings, plugins, http)
            await nursery.start(self.relay.run)
            self.port = self.relay.addresses[0][1]
            with trio.fail_after(WITHIN):
                while any(
                    each["state"] != "up" for each in self.relay.providers.statuses() if each["provider"] not in more
                ):
                    await trio.sleep(0.01)
            self._ready.set()
            await stopped.wait()
            nursery.cancel_scope.cancel()

    def _run(self, stop: list[Callable[[], None]], more: dict[str, Any]) -> None:
        async def main() -> None:
            stopped = trio.Event()
            self._token = trio.lowlevel.current_trio_token()
            stop.append(stopped.set)
            await self._serve(stopped, more)

        try:
            trio.run(main)
        except Exception as error:  # noqa: BLE001 - told by the test's own thread
            self._failure.append(error)
        finally:
            self._ready.set()


@contextmanager
def shared_relay(**more: Any) -> Iterator[SharedRelay]:
    """Run the relay for the length of the block; ``more`` are tables of further providers, which need not connect."""
    shared, stop = SharedRelay(), list[Callable[[], None]]()
    thread = threading.Thread(target=shared._run, args=(stop, more), daemon=True)
    thread.start()
    assert shared._ready.wait(WITHIN)
    if shared._failure:
        raise shared._failure[0]
    try:
        yield shared
    finally:
        shared.call(stop[0])
        thread.join(WITHIN)
    if shared._failure:
        raise shared._failure[0]
