"""A crash in one adapter's session, tap or service is contained, reported and restarted; the others miss nothing."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog
import trio
from attrs import define

import relay.app
from relay.adapter import Backoff
from relay.app import Relay
from relay.model.events import Event, Stamp
from relay.plugins.hookspecs import RelayApi, Service, Tap, hookimpl
from relay.testing.faults import FaultProxy, Stall
from relay.testing.subscriber import Subscriber
from relay_synthetic.simulator import SyntheticSimulator
from support.deadlines import WITHIN
from support.faulty import OUR_APP, adapted
from support.running import port_of, running_relay


@define
class House:
    """A relay with two venues, `good` and `bad`, and a subscriber of both."""

    relay: Relay
    subscriber: Subscriber
    venues: dict[str, SyntheticSimulator]
    lines: dict[str, FaultProxy]
    nursery: trio.Nursery

    def view(self, channel):
        return self.subscriber.views[channel]

    def connections(self) -> dict[str, int]:
        """Return the number of connection events, by provider."""
        return {name: self.view(f"status.{name}").kinds["connection"] for name in self.lines}

    async def more_of(self, name: str, count: int = 5) -> None:
        view = self.view(f"quote.{name}.BTC-USD")
        wanted = view.kinds["quote"] + count
        await self.subscriber.until(lambda: view.kinds["quote"] >= wanted)


@asynccontextmanager
async def house(stranger: object | None = None) -> AsyncIterator[House]:
    venues = {name: SyntheticSimulator(rate=50, seed=number) for number, name in enumerate(("bad", "good"))}
    async with (
        venues["bad"].serve() as bad, venues["good"].serve() as good,
        FaultProxy(bad.port).serve() as bad_line, FaultProxy(good.port).serve() as good_line,
    ):  # fmt: skip
        lines = {"bad": bad_line, "good": good_line}
        tables = {
            name: {"adapter": "synthetic", "url": f"ws://127.0.0.1:{line.port}/v1", "pinned": ["quote BTC/USD"]}
            for name, line in lines.items()
        }
        async with running_relay(tables, adapt=adapted(), stranger=stranger) as made, trio.open_nursery() as nursery:
            channels = [stream for name in lines for stream in (f"status.{name}", f"quote.{name}.BTC-USD")]
            subscriber = Subscriber(lambda: port_of(made), OUR_APP, channels)
            nursery.start_soon(subscriber.run)
            yielded = House(made, subscriber, venues, lines, nursery)
            for name in lines:
                await yielded.more_of(name)
            yield yielded
            nursery.cancel_scope.cancel()


@pytest.fixture
def crashes(monkeypatch):
    """Return the log of tasks that crashed, which are restarted at once."""
    monkeypatch.setitem(relay.app.supervise.__kwdefaults__, "backoff", Backoff(first=0.01, cap=0.01))
    with structlog.testing.capture_logs() as logs:
        monkeypatch.setattr(relay.app, "log", structlog.get_logger())
        yield lambda: [entry for entry in logs if entry["event"] == "task crashed"]


async def test_a_session_that_crashes_is_restarted_and_the_other_one_misses_nothing(crashes, monkeypatch):
    async with house() as made:
        publish, armed = made.relay.hub.publish, [True]

        def broken(event: Event, stamp: Stamp, now: float) -> str:
            if armed and stamp.provider == "bad" and event.kind == "quote":
                armed.clear()
                raise RuntimeError("a bug of the relay")
            return publish(event, stamp, now)

        monkeypatch.setattr(made.relay.hub, "publish", broken)
        status, said = made.view("status.bad"), made.connections()
        await made.subscriber.until(lambda: made.connections()["bad"] == said["bad"] + 2)
        assert status.last["connection"]["event"] == "CONNECTED"
        for name in ("bad", "good"):
            await made.more_of(name)
        assert [(crash["task"], crash["log_level"]) for crash in crashes()] == [("bad", "error")]
        assert made.view("quote.bad.BTC-USD").kinds["gap"] == 1
        good = made.view("quote.good.BTC-USD")
        assert (good.skipped, good.kinds["gap"], made.connections()["good"]) == (0, 0, said["good"])
        assert made.subscriber.connections == 1
        bad, healthy = sorted(made.relay.providers.statuses(), key=lambda session: session["provider"])
        assert (bad["counters"]["reconnects"], healthy["counters"]["reconnects"]) == (1, 0)
        counters = healthy["counters"]
        assert (
            counters["received"]
            == counters["published"] + sum(counters["dropped"].values()) + counters["unknown"] + counters["held"]
        )


class Tapping:
    @hookimpl
    def relay_taps(self) -> Iterable[Tap]:
        def tap(event: Event, stamp: Stamp, id: str) -> None:
            raise ValueError("a stranger's bug")

        return [tap]


async def test_a_tap_that_raises_harms_nobody_and_is_counted():
    async with house(Tapping()) as made:
        for name in ("bad", "good"):
            await made.more_of(name, 20)
            assert made.view(f"quote.{name}.BTC-USD").skipped == 0
        assert made.relay.snapshot()["plugins"]["failures"]["stranger"] >= 40
        assert all(
            session["state"] == "up" and not session["counters"]["reconnects"]
            for session in made.relay.providers.statuses()
        )


class Serving:
    """A service that crashes twice and then stays."""

    def __init__(self) -> None:
        self.runs = 0
        self.stays = trio.Event()
        self.ended: list[str] = []

    @hookimpl
    def relay_services(self) -> Iterable[Service]:
        return [Service("fragile", self.run)]

    async def run(self, feed: RelayApi) -> None:
        self.runs += 1
        if self.runs < 3:
            raise RuntimeError(f"crash {self.runs}")
        self.stays.set()
        try:
            await trio.sleep_forever()
        finally:
            self.ended.append("service")


async def test_a_service_that_crashes_is_restarted_with_the_others_untouched(crashes):
    plugin = Serving()
    async with house(plugin) as made:
        with trio.fail_after(WITHIN):
            await plugin.stays.wait()
        await made.more_of("good")
        assert [crash["task"] for crash in crashes()] == ["stranger: fragile"] * 2
        assert made.view("quote.good.BTC-USD").skipped == 0


async def test_shutting_down_goes_in_order_and_ends_although_a_provider_is_stuck():
    plugin = Serving()
    async with house(plugin) as made:
        with trio.fail_after(WITHIN):
            await plugin.stays.wait()
        order = plugin.ended
        good = made.venues["good"]

        class Told(trio.abc.Instrument):
            def after_task_step(self, task: Any) -> None:
                if not made.relay.hub.connections and "subscribers" not in order:
                    order.append("subscribers")
                if not good.links and "providers" not in order:
                    order.append("providers")

        trio.lowlevel.add_instrument(told := Told())
        made.lines["bad"].inject(Stall())
        unsubscribed = good.links[0].received
        made.relay.stop()
        try:
            with trio.fail_after(WITHIN):  # the provider is stuck for ever
                while len(order) < 3:
                    await trio.sleep(0.01)
        finally:
            trio.lowlevel.remove_instrument(told)
        assert order == ["subscribers", "providers", "service"]
        assert any('"unsubscribe"' in str(message) for message in unsubscribed)
        assert made.subscriber.notes  # it was closed, and finds nobody when it comes back
