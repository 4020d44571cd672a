"""A whole relay whose only source of events is inside it: what it is told on stdin it publishes.

    python relay_under_test.py [PROVIDERS [SETTING=true|false ...] [tls=FOLDER]]
                                       settings of [server.subscribers]; a folder with cert.pem and key.pem

The relay is built from settings as `tickrelay run` builds it; the source is a plugin's service, and the providers are of
an adapter that never gets a connection. Commands, each answered by one line:

    tick ROUNDS BATCH PAUSE_US SIZE    BATCH application events on channel `ticks` in one pass of the scheduler, then a
                                       pause, ROUNDS times; the whole frame of each is SIZE bytes
    quotes ROUNDS BATCH PAUSE_US CHANNELS PROVIDERS
                                       the same with quotes, taking turns over the channels quote.p<j>.S<i>
    stamped RATE SECONDS               ticks at RATE per second, each with the time it was published at
    collect                            a full garbage collection, and the milliseconds it took
    snapshot                           connections and drops
"""

import gc
import sys
import threading
import time
from collections.abc import AsyncIterable, Iterable
from pathlib import Path
from typing import Any

import pluggy
import trio

from relay.adapter import Adapter, Backoff, Offer, Outgoing, Session
from relay.app import Relay, freeze_gc
from relay.model.events import Event, Quote, Stamp
from relay.plugins import hookspecs as hooks
from relay.plugins.hookspecs import Service, hookimpl
from relay.plugins.manager import Plugins
from relay.provider.http import HttpClient
from relay.settings import settings_of

APP = "1"
TICKS = "ticks"


def lines_of_stdin() -> AsyncIterable[str]:
    """Return the lines as they come. A thread waits for them, so that trio's own thread waits for nothing."""
    lines, heard = trio.open_memory_channel[str](8)
    token = trio.lowlevel.current_trio_token()

    def listen() -> None:
        for line in sys.stdin:
            token.run_sync_soon(lines.send_nowait, line)
        token.run_sync_soon(lines.close)

    threading.Thread(target=listen, daemon=True).start()
    return heard


class Unreachable(Adapter):
    """A provider there is no way to; its events come from the bench."""

    name = "bench"
    session = Session(url="ws://127.0.0.1:1/", backoff=Backoff(first=3600, cap=3600, jitter=0))
    offers = (Offer(kind="quote", example={"symbol": "S0"}),)

    def encode(self, outgoing: Outgoing) -> Iterable[str]:
        return ()

    def decode(self, message: str) -> Iterable[Event]:
        return ()


class Source:
    """The plugin: the adapter, and the service that publishes."""

    def __init__(self) -> None:
        self.relay: Relay | None = None
        self._published = 0

    @hookimpl
    def relay_adapters(self) -> Iterable[type[Adapter]]:
        return [Unreachable]

    @hookimpl
    def relay_services(self) -> Iterable[Service]:
        return [Service("commands", self.run)]

    async def run(self, feed: hooks.RelayApi) -> None:
        """Obey stdin until it ends."""
        assert self.relay is not None
        async for line in lines_of_stdin():
            name, *numbers = line.split()
            print(await getattr(self, name)(self.relay, *map(int, numbers)), flush=True)
        self.relay.stop()

    async def tick(self, relay: Relay, rounds: int, batch: int, pause: int, size: int) -> str:
        data = _filling(size)
        for _ in range(rounds):
            for _ in range(batch):
                relay.hub.trigger(APP, [TICKS], "tick", data, now=trio.current_time())
            await trio.sleep(pause / 1e6)
        return "done"

    async def quotes(self, relay: Relay, rounds: int, batch: int, pause: int, channels: int, providers: int) -> str:
        stamps = [Stamp(provider=f"p{j}", received_at="2025-01-15T10:30:00.123456Z") for j in range(providers)]
        for _ in range(rounds):
            for _ in range(batch):
                self._published += 1
                number = self._published % channels
                ask = f"1.0{self._published % 10000:04}"
                quote = Quote(symbol=f"S{number}", bid="1.08423", ask=ask, time="2025-01-15T10:30:00.120Z")
                relay.publish(quote, stamps[number % providers])
            await trio.sleep(pause / 1e6)
        return "done"

    async def stamped(self, relay: Relay, rate: int, seconds: int) -> str:
        start, period = time.perf_counter(), 1 / rate
        for number in range(rate * seconds):
            wait = start + number * period - time.perf_counter()
            if wait > 0:
                await trio.sleep(wait)
            relay.hub.trigger(APP, [TICKS], "tick", f"T={time.monotonic_ns():019}" + "." * 130, now=trio.current_time())
            if wait <= 0:
                await trio.lowlevel.checkpoint()
        return "done"

    async def collect(self, relay: Relay) -> str:
        start = time.perf_counter()
        gc.collect()
        return f"collected {(time.perf_counter() - start) * 1e3:.2f}"

    async def snapshot(self, relay: Relay) -> str:
        state = relay.hub.snapshot()
        return f"snapshot {state['connections']} {sum(state['dropped'].values())}"


def _filling(size: int) -> str:
    """Data that make the whole frame `size` bytes: two or four of header, the rest of the message around them."""
    around = len('{"event":"tick","channel":"","data":""}') + len(TICKS)
    return "." * (size - around - (2 if size < 128 else 4))


def document(providers: int, subscribers: dict[str, bool], tls: dict[str, str]) -> dict[str, Any]:
    """The configuration: limits as an operator of many connections would raise them."""
    return {
        "allow_inline_secrets": True,
        "server": {"listen": "127.0.0.1:0", "status_public": True, "subscribers": subscribers, **tls},
        "apps": {
            "bench": {"id": APP, "key": "bench", "secret": "a-secret-of-the-bench", "limits": {"streams": 10_000}}
        },
        "api_keys": {"bench": {"key": "an-api-key-of-the-bench", "accounts": ["*"]}},
        "providers": {f"p{j}": {"adapter": "bench"} for j in range(providers)},
    }


def _switch(text: str) -> tuple[str, bool]:
    name, _, value = text.partition("=")
    return name, value == "true"


async def main(providers: int = 1, *switches: str) -> None:
    """Serve until stdin ends."""
    source = Source()
    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    manager.register(source, "bench")
    plugins = Plugins(manager)
    tls = {}
    if switches and switches[-1].startswith("tls="):
        folder, switches = switches[-1][4:], switches[:-1]
        tls = {"tls_cert": f"{folder}/cert.pem", "tls_key": f"{folder}/key.pem"}
    settings = settings_of(
        document(providers, dict(map(_switch, switches)), tls), Path("bench"), {}, plugins.adapters(), Path.read_text,
        plugin_tables=plugins.tables(), check_plugins=plugins.check_settings,
    )  # fmt: skip
    async with HttpClient() as http, trio.open_nursery() as nursery:
        source.relay = relay = Relay(settings, plugins, http)
        await nursery.start(relay.run)
        freeze_gc()
        print(f"listening {relay.addresses[0][1]}", flush=True)


if __name__ == "__main__":
    import logging

    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 1, *sys.argv[2:])
