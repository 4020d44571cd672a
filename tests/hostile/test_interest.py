"""Interest of strangers: names a provider does not have, in any number, harm neither its session nor anybody's streams."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import attrs
import httpx
import pytest
import trio

from relay.adapter import Adapter
from relay.app import Relay
from relay.demo import provider_table
from relay.model.channels import ALL, Asker, Stream, Topic
from relay.model.events import Error, Stamp
from relay.provider.http import HttpClient
from relay.provider.subscriptions import REFUSALS
from relay.providers import ConfiguredProvider, Providers
from relay.settings import ProviderSettings
from relay.testing.simulator import Drop, HttpRequest, HttpResponse
from relay.trading.registry import CommandRegistry
from relay_binance.adapter import Binance
from relay_helio.simulator import EMAIL, PASSWORD, SIMULATED, HelioSimulator
from relay_shuriken.simulator import KEY as SHURIKEN_KEY
from relay_shuriken.simulator import ShurikenSimulator
from relay_synthetic.simulator import SyntheticSimulator
from support.deadlines import WITHIN
from support.raw import Raw, raw
from support.running import API_KEY, APP, port_of, running_relay

PINNED = "quote.helio.EUR-USD"


def topics(relay: Relay) -> Any:
    """The counts of topics of the session, by standing."""
    return relay.providers.statuses()[0]["topics"]


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for something that no event tells."""
    with trio.fail_after(WITHIN):
        while not is_so():
            await trio.sleep(0.01)


def impatient(adapter: type[Adapter]) -> type[Adapter]:
    """The adapter with the same session, whose acknowledgements are waited for less long."""
    return type(adapter.__name__, (adapter,), {"session": attrs.evolve(adapter.session, ack_within=0.3)})


@pytest.fixture
async def helio() -> AsyncIterator[tuple[Relay, HelioSimulator]]:
    simulator = HelioSimulator(seed=1)
    async with simulator.serve() as address:
        provider = {**provider_table(SIMULATED, address.ws, address.http), "symbols": {"EURUSD": "EUR/USD"}}
        keys = {"desk": {"key": API_KEY, "trade": ["helio.main"]}}
        apps = {"main": {**APP, "limits": {"streams": 600}}}
        async with running_relay({"helio": provider}, api_keys=keys, apps=apps, adapt=impatient) as relay:
            await until(lambda: topics(relay)["confirmed"] >= 2)
            yield relay, simulator


async def flood(socket: Raw, names: int) -> None:
    """Subscribe to streams of symbols that do not exist, in one write."""
    for each in range(names):
        await socket.say("pusher:subscribe", {"channel": f"quote.helio.MADE-UP{each}"})


async def order(relay: Relay) -> Any:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port_of(relay)}", timeout=WITHIN) as http:
        form = {"provider": "helio", "command": "place_order", "symbol": "EUR/USD", "side": "BUY",
                "order_type": "MARKET", "quantity": 1000}  # fmt: skip
        answer = await http.post("/api/v2/commands", json=form, headers={"Authorization": f"Bearer {API_KEY}"})
        return answer.json()["outcome"]


async def test_520_names_that_do_not_exist_take_neither_the_session_nor_an_order_nor_a_pinned_stream(
    helio: tuple[Relay, HelioSimulator],
) -> None:
    relay, simulator = helio
    async with raw(port_of(relay)) as stranger, raw(port_of(relay)) as honest:
        await honest.subscribe(PINNED)
        await flood(stranger, 520)
        await stranger.hear("pusher_internal:subscription_succeeded", "quote.helio.MADE-UP519")
        assert await order(relay) == "accepted"
        await honest.hear("quote", PINNED)
        assert relay.providers.statuses()[0]["counters"]["reconnects"] == 0
        # The next connection asks for everything again, and for what is pinned by itself.
        simulator.inject(Drop())
        await until(lambda: relay.providers.statuses()[0]["counters"]["reconnects"] == 1)
        assert await order(relay) == "accepted"
        await honest.hear("gap", PINNED)
        await honest.hear("quote", PINNED)
        assert relay.providers.statuses()[0]["counters"]["reconnects"] == 1


class BusyShuriken(ShurikenSimulator):
    """Counts the requests that are under way at once."""

    under_way = most = 0

    async def answer(self, request: HttpRequest) -> HttpResponse:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await trio.sleep(0.01)  # so that requests made at once meet
        self.under_way -= 1
        return await super().answer(request)


async def test_900_streams_that_need_a_request_each_are_asked_for_a_few_at_a_time() -> None:
    simulator = BusyShuriken(interval=0)
    async with simulator.serve() as address:
        provider = {
            "adapter": "shuriken",
            "url": address.ws,
            "http_url": address.http,
            "pinned": ["signal global"],
            "accounts": {"main": {"credentials": {"key": SHURIKEN_KEY}}},
        }
        limits = {"streams": 900}
        async with running_relay({"shuriken": provider}, apps={"main": {**APP, "limits": limits}}) as relay:
            await until(lambda: topics(relay)["confirmed"] == 1)
            async with raw(port_of(relay)) as stranger:
                for each in range(300):
                    for kind in ("reference", "public_trade", "signal"):
                        await stranger.say("pusher:subscribe", {"channel": f"{kind}.shuriken.MADEUP{each}"})
                await stranger.hear("pusher_internal:subscription_succeeded", "signal.shuriken.MADEUP299")
                await until(lambda: topics(relay)["wanted"] + topics(relay)["queued"] + topics(relay)["pending"] == 0)
            assert relay.providers.statuses()[0]["counters"]["reconnects"] == 0
            assert simulator.most <= 8


async def test_a_good_name_among_bad_ones_of_the_same_request_lives(helio: tuple[Relay, HelioSimulator]) -> None:
    relay, _ = helio
    async with raw(port_of(relay)) as client:
        for name in ("MADE-UP1", "GBPUSD", "MADE-UP2", "XAUUSD", "MADE-UP3"):
            await client.say("pusher:subscribe", {"channel": f"quote.helio.{name}"})
        missing = {("quote", "GBPUSD", ""), ("quote", "XAUUSD", "")}
        missing |= {("staleness", f"MADE-UP{each}", "no acknowledgement after") for each in (1, 2, 3)}
        with trio.fail_after(WITHIN):
            while missing:
                message = await client.receive()
                reason = " ".join((json.loads(message["data"]).get("reason") or "").split()[:3])
                missing.discard((message["event"], message.get("channel", "").removeprefix("quote.helio."), reason))
    assert relay.providers.statuses()[0]["counters"]["reconnects"] == 0


def configured(name: str, wanted: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> ConfiguredProvider:
    """A provider without a connection; what is asked of it goes to ``wanted``."""
    provider = ConfiguredProvider(
        ProviderSettings(name=name, adapter=Binance), HttpClient(), lambda *event: None, CommandRegistry(), print
    )
    for pool in provider.sessions.values():
        monkeypatch.setattr(pool.first, "want", lambda topic, by: wanted.append((name, topic.symbol)))
        monkeypatch.setattr(pool.first, "unwant", lambda topic: wanted.remove((name, topic.symbol)))
    return provider


async def test_a_merged_stream_asks_only_who_lists_the_symbol_and_gives_back_what_it_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted: list[tuple[str, str]] = []
    one, other = (configured(name, wanted, monkeypatch) for name in ("one", "other"))
    providers, by = Providers([one, other]), Asker("7", "1.1")
    one.symbols.learn([("BTCUSDT", "BTC/USDT")], complete=True)
    other.symbols.learn([("ETHUSDT", "ETH/USDT")], complete=True)
    merged = Stream(ALL, Topic(kind="quote", symbol="ETH/USDT"))
    providers.want(merged, by)
    assert wanted == [("other", "ETH/USDT")]
    one.symbols.learn([("BTCUSDT", "BTC/USDT"), ("ETHUSDT", "ETH/USDT")], complete=True)  # listed since
    providers.unwant(merged)
    assert wanted == []
    refused = providers.wrong_with(Stream("one", Topic(kind="quote", symbol="BTCUSDC")))
    assert refused == "the provider lists no symbol 'BTCUSDC'; did you mean BTC/USDT?"
    refused = providers.wrong_with(Stream(ALL, Topic(kind="quote", symbol="XRP/XRP")))
    assert refused is not None
    assert refused.count("lists no symbol") == 2


async def test_names_that_strangers_make_up_do_not_fill_the_status_channel() -> None:
    simulator = SyntheticSimulator(seed=1, rate=0)
    async with simulator.serve() as address:
        provider = {"adapter": "synthetic", "url": address.ws, "http_url": address.http}
        async with running_relay({"synthetic": provider}) as relay:
            async with raw(port_of(relay)) as stranger, raw(port_of(relay)) as honest:
                await honest.subscribe("status.synthetic")
                began = trio.current_time()
                for each in range(200):
                    await stranger.say("pusher:subscribe", {"channel": f"quote.synthetic.MADE-UP{each}"})
                for each in range(200):
                    assert (await stranger.hear("staleness", f"quote.synthetic.MADE-UP{each}"))["event"] == "STALE"
                stamp = Stamp(provider="synthetic", account=None, received_at="2025-01-15T10:30:00Z")
                relay.publish(Error(code="last", message="of the test"), stamp)
                told = []
                while not told or told[-1].get("code") != "last":
                    message = await honest.receive()
                    if message.get("channel") == "status.synthetic" and message["event"] in ("error", "staleness"):
                        told.append({"event": message["event"]} | json.loads(message["data"]))
                refused = [each["code"] for each in told[:-1]]
                assert set(refused) == {"subscription_refused"}
                assert REFUSALS <= len(refused) <= REFUSALS * (1 + (trio.current_time() - began) / 60)


async def test_one_connection_holds_so_many_streams_and_is_told_the_limit() -> None:
    simulator = HelioSimulator(seed=1)
    async with simulator.serve() as address:
        provider = {
            "adapter": "helio",
            "url": address.ws,
            "http_url": address.http,
            "credentials": {"email": EMAIL, "password": PASSWORD},
        }
        limits = {"streams": 2, "occupied_streams": 3}
        async with running_relay({"helio": provider}, apps={"main": {**APP, "limits": limits}}) as relay:
            async with raw(port_of(relay)) as one, raw(port_of(relay)) as other:
                await one.subscribe("quote.helio.EURUSD")
                await one.subscribe("quote.helio.GBPUSD")
                await one.subscribe("status.helio")  # asks nothing of the provider
                await one.say("pusher:subscribe", {"channel": "quote.helio.XAUUSD"})
                refused = await one.hear("pusher:subscription_error", "quote.helio.XAUUSD")
                assert refused["status"] == 403
                assert "(limit streams)" in refused["error"]
                await other.subscribe("quote.helio.EURUSD")
                await other.subscribe("quote.helio.XAUUSD")
                await one.say("pusher:unsubscribe", {"channel": "quote.helio.EURUSD"})
                await one.say("pusher:subscribe", {"channel": "depth.helio.EURUSD"})
                refused = await one.hear("pusher:subscription_error", "depth.helio.EURUSD")
                assert "(limit occupied_streams)" in refused["error"]
                await other.say("pusher:unsubscribe", {"channel": "quote.helio.XAUUSD"})
                await other.say("pusher:ping")
                await other.hear("pusher:pong")
                await one.subscribe("depth.helio.EURUSD")


async def test_names_nobody_is_on_any_more_leave_as_fast_as_they_come() -> None:
    history = {"idle_topics": 100}
    async with running_relay(history=history) as relay, raw(port_of(relay)) as client:
        await client.subscribe("kept")
        for each in range(1000):
            name = f"room-{each}"
            await client.say("pusher:subscribe", {"channel": name})
            await client.say("pusher:unsubscribe", {"channel": name})
        await client.say("pusher:ping")
        await client.hear("pusher:pong")
        (app,) = relay.hub._by_id.values()
        assert len(app.topics) == 101
        assert json.loads(json.dumps(list(app.channels))) == ["kept"]
