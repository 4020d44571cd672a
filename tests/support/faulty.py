"""A relay between a simulator and a subscriber, with a fault proxy on either side."""

import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import attrs
import trio
import trio.lowlevel
from attrs import Factory, define, frozen

import relay_crosstrade
import relay_crosstrade.simulator
import relay_helio
import relay_helio.simulator
import relay_scaletrade
import relay_scaletrade.simulator
import relay_shuriken
import relay_shuriken.simulator
import relay_synthetic
import relay_synthetic.simulator
import relay_tektii
import relay_tektii.simulator
from relay.adapter import Adapter, Backoff, Session
from relay.app import Relay
from relay.demo import provider_table
from relay.model.channels import Stream, channel_name
from relay.plugins.hookspecs import Simulated
from relay.provider.driver import ProviderSession
from relay.pusher.apps import App as PusherApp
from relay.testing.faults import FaultProxy
from relay.testing.simulator import Simulator
from relay.testing.subscriber import Subscriber
from support.running import APP, port_of, running_relay
from support.tls import TlsFront

OUR_APP = PusherApp(id=APP["id"], key=APP["key"], secrets=(APP["secret"],))
QUICK = Backoff(first=0.01, cap=0.05)
#: Far more passes of the loop than a message needs from a provider to a subscriber, or an answer back.
PASSES = 200
Status = tuple[str, str]


@frozen
class Venue:
    """A provider with a simulator whose market moves by itself every ``interval`` seconds."""

    simulator: Callable[[float], Simulator]
    simulated: Simulated
    pinned: tuple[str, ...]
    """The first is a market stream that data keep coming on; an account's is the last one."""


def _venue(package: Any, simulator: Callable[[float], Simulator], *pinned: str) -> Venue:
    (simulated,) = package.relay_simulators()
    return Venue(simulator, simulated, pinned or simulated.pinned)


#: Every adapter with a simulator. A new one needs its line here and nothing else.
VENUES: Mapping[str, Venue] = {
    "crosstrade": _venue(
        relay_crosstrade, lambda every: relay_crosstrade.simulator.CrossTradeSimulator(interval=every, upgrades=1000)
    ),
    "helio": _venue(
        relay_helio, lambda every: relay_helio.simulator.HelioSimulator(interval=every), "quote EUR/USD", "depth EUR/USD", "account main"
    ),
    "scaletrade": _venue(relay_scaletrade, lambda every: relay_scaletrade.simulator.ScaleTradeSimulator(interval=every)),
    "shuriken": _venue(
        relay_shuriken, lambda every: relay_shuriken.simulator.ShurikenSimulator(interval=every, backoff_ms=(50, 100, 200))
    ),
    "synthetic": _venue(
        relay_synthetic,
        lambda every: relay_synthetic.simulator.SyntheticSimulator(rate=1 / every if every else 0),
        "quote BTC/USD", "depth BTC/USD", "public_trade ETH/USD",
    ),
    "tektii": _venue(relay_tektii, lambda every: relay_tektii.simulator.TektiiSimulator(interval=every, requests_per_minute=None)),
}  # fmt: skip


@define
class Rig:
    """All of it. ``heard`` is every event the subscriber got, with its channel."""

    name: str
    relay: Relay
    simulator: Simulator
    upstream: FaultProxy
    downstream: FaultProxy
    subscriber: Subscriber
    heard: list[tuple[str, Mapping[str, Any]]] = Factory(list)

    @property
    def session(self) -> ProviderSession:
        ((_, session),) = self.relay.providers.connections()
        return session

    @property
    def status(self) -> str:
        return f"status.{self.name}"

    @property
    def market(self) -> str:
        """The channel that data keep coming on."""
        return next(channel for channel in self.subscriber.views if channel != self.status)

    @property
    def account(self) -> str:
        return next(channel for channel in self.subscriber.views if channel.startswith("private-account"))

    def on(self, channel: str, *, since: int = 0) -> list[Mapping[str, Any]]:
        return [event for name, event in self.heard[since:] if name == channel]

    def states(self, *, since: int = 0) -> list[Status]:
        """States of the connection with their reasons."""
        told = [event for event in self.on(self.status, since=since) if event["type"] == "connection"]
        return [(event["event"], event.get("reason", "")) for event in told]

    async def flowing(self, since: int = 0) -> None:
        """Wait until data came on the market's channel behind ``since`` of what was heard."""
        await self.subscriber.until(
            lambda: any(event["type"] not in ("gap", "staleness") for event in self.on(self.market, since=since))
        )

    async def state(self, state: str, *, since: int) -> None:
        await self.subscriber.until(lambda: any(told == state for told, _ in self.states(since=since)))

    async def settled(self) -> None:
        """Wait until all that was sent has been read, however busy this machine is.

        Where it is, the provider has more to send than the passes of the loop let through, so the relay is asked how far it has
        read. What the relay sends on is read by the subscriber, a task of the same loop, in the passes that follow.
        """
        for link in list(self.simulator.links):
            await link.drained()
        for _ in range(PASSES):
            await trio.lowlevel.checkpoint()

    def problems(self) -> list[str]:
        return [problem for view in self.subscriber.views.values() for problem in view.problems]

    def counters(self) -> Mapping[str, Any]:
        counters: Mapping[str, Any] = self.session.status()["counters"]
        return counters


def adapted(**changes: Any) -> Callable[[type[Adapter]], type[Adapter]]:
    """Adapters with another declaration of the session; without budgets, which are not the subject."""

    def adapt(adapter: type[Adapter]) -> type[Adapter]:
        session: Session = attrs.evolve(adapter.session, **{"backoff": QUICK, "limits": (), **changes})
        return type(adapter.__name__, (adapter,), {"session": session})

    return adapt


@asynccontextmanager
async def rig(
    name: str, *, every: float = 0.03, buffer: int | None = None, tls: ssl.SSLContext | None = None,
    configured: Mapping[str, Any] | None = None, credentials: Mapping[str, str] | None = None, connected: bool = True,
    pong_timeout: float = 300, **session: Any,
) -> AsyncIterator[Rig]:  # fmt: skip
    """Everything, connected, with data flowing. ``session`` are changes of the adapter's declaration.

    With ``tls`` the provider's WebSocket is behind TLS of this context, and the proxy before it. ``configured`` are more keys of
    the provider's table, ``credentials`` others than the simulator's. Without ``connected`` nothing is waited for. The subscriber
    takes a relay for dead that does not answer its ping for ``pong_timeout`` seconds, which a machine that stands still must not reach.
    """
    venue = VENUES[name]
    simulator, simulated = venue.simulator(every), venue.simulated
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(simulator.serve())
        behind, scheme = address.port, "ws"
        if tls is not None:
            behind, scheme = (await stack.enter_async_context(TlsFront(address.port, tls).serve())).port, "wss"
        upstream = await stack.enter_async_context(FaultProxy(behind).serve())
        ws_url = address.ws.replace(str(address.port), str(upstream.port)).replace("ws", scheme, 1)
        http_url = address.http if tls else address.http.replace(str(address.port), str(upstream.port))
        signed_in = attrs.evolve(simulated, credentials=credentials or simulated.credentials, pinned=venue.pinned)
        table = {**provider_table(signed_in, ws_url, http_url), **(configured or {})}
        async with (
            running_relay({name: table}, adapt=adapted(**session)) as relay,
            FaultProxy(port_of(relay), buffer=buffer).serve() as downstream,
            trio.open_nursery() as nursery,
        ):
            (provider,) = relay.providers
            channels = [_channel(Stream(name, topic)) for topic in provider.settings.pinned]
            heard: list[tuple[str, Mapping[str, Any]]] = []
            subscriber = Subscriber(
                lambda: downstream.port, OUR_APP, [*channels, f"status.{name}"], activity_timeout=0.5,
                pong_timeout=pong_timeout,
                heard=lambda channel, event: heard.append((channel, event)),
            )  # fmt: skip
            nursery.start_soon(subscriber.run)
            made = Rig(name, relay, simulator, upstream, downstream, subscriber, heard)
            if connected:
                await made.flowing()
            yield made
            nursery.cancel_scope.cancel()


def _channel(stream: Stream) -> str:
    return channel_name(stream, "private-" if stream.topic.kind == "account" else "")
