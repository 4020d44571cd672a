"""Every hook, through a plugin of a stranger's in a running relay."""

from collections.abc import Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import httpx
import pluggy
import pytest
import structlog
import trio

from relay.adapter import Adapter, Offer, Outgoing, Session, Subscribe, Unknown, dumps, loads
from relay.app import Relay
from relay.cli import run as command_line
from relay.demo import demo
from relay.hub.outbox import Outbox
from relay.model.enums import Outcome
from relay.model.events import Event, Quote, Reply, Stamp
from relay.plugins import hookspecs as hooks
from relay.plugins.hookspecs import ChannelEvent, Grant, RelayApi, Service, Simulated, hookimpl
from relay.plugins.manager import PluginError, Plugins
from relay.provider.http import HttpClient
from relay.pusher.signatures import verify_webhook
from relay.settings import SettingsError, settings_of
from relay.testing.player import play
from relay.testing.recording import Record, Recording
from support.deadlines import WITHIN
from support.running import API_KEY, APP, port_of
from support.simulated_venue import trading

STAMP = Stamp(provider="toy", received_at="2025-01-15T10:30:00Z")


class Toy(Adapter):
    """A venue that sends a price."""

    name = "toy"
    session = Session(url="ws://127.0.0.1:1/{token}")
    offers = (Offer(kind="quote", example={"symbol": "A/B"}),)
    credentials = ("token",)

    def encode(self, outgoing: Outgoing) -> Iterable[str]:
        if isinstance(outgoing, Subscribe):
            yield dumps({"subscribe": [topic.symbol for topic in outgoing.topics]})

    def decode(self, message: str) -> Iterable[Event | Any]:
        match loads(message):
            case {"symbol": symbol, "bid": bid}:
                yield Quote(symbol=symbol, bid=bid)
            case other:
                yield Unknown(other)


@attrs.frozen
class ToySettings:
    """The toy's table."""

    size: int = 3
    """The size."""


def plugins_of(**objects: object) -> Plugins:
    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    for name, plugin in objects.items():
        manager.register(plugin, name)
    return Plugins(manager)


class Adapters:
    @hookimpl
    def relay_adapters(self) -> Iterable[type[Adapter]]:
        return [Toy]


def document(**tables: Any) -> dict[str, Any]:
    return {
        "allow_inline_secrets": True,
        "server": {"listen": "127.0.0.1:0", "status_public": True},
        "apps": {"main": APP},
        "api_keys": {"desk": {"key": API_KEY, "accounts": ["*"]}},
        **tables,
    }


def settings_with(plugins: Plugins, /, **tables: Any) -> Any:
    return settings_of(
        document(**tables),
        Path("test"),
        {},
        plugins.adapters(),
        Path.read_text,
        plugin_tables=plugins.tables(),
        check_plugins=plugins.check_settings,
        credential=plugins.credential,
    )


class Subscriber:
    """A subscriber of the hub without a socket."""

    def __init__(self, relay: Relay, channel: str) -> None:
        self.frames: list[bytes] = []
        self.session = relay.hub.connect(APP["key"], "protocol=7", None, trio.current_time(), secure=False)
        outbox: Outbox = self.session.outbox
        outbox.attach(self.write, [], lambda: None)
        self.session.receive(dumps({"event": "pusher:subscribe", "data": {"channel": channel}}), trio.current_time())
        self.outbox = outbox

    def write(self, data: bytes) -> int:
        self.frames.append(bytes(data))
        return len(data)

    def text(self) -> str:
        if self.outbox.dirty:
            self.outbox.flush()
        return b"".join(self.frames).decode(errors="replace")


async def with_relay(plugins: Plugins, use: Any, **tables: Any) -> None:
    async with HttpClient() as http, trio.open_nursery() as nursery:
        relay = Relay(settings_with(plugins, **tables), plugins, http)
        await nursery.start(relay.run)
        await use(relay)
        relay.stop()


async def test_hook_adapters() -> None:
    frames = [Record(t=float(i), dir="in", data=dumps({"symbol": "A/B", "bid": f"1.{i}0"})) for i in range(3)]
    seen: list[Event] = []

    class Taps:
        @hookimpl
        def relay_taps(self) -> Iterable[hooks.Tap]:
            return [lambda event, stamp, id: seen.append(event)]

    async with play(Recording(tuple(frames)), start="subscribe", quiet=0.01) as player:
        provider = {"adapter": "toy", "url": player.ws_url, "pinned": ["quote A/B"], "credentials": {"token": "t"}}

        async def use(relay: Relay) -> None:
            with trio.fail_after(WITHIN):
                while sum(isinstance(event, Quote) for event in seen) < 3:
                    await trio.sleep(0.01)

        await with_relay(plugins_of(toy=Adapters(), taps=Taps()), use, providers={"mine": provider})
    assert [event.bid for event in seen if isinstance(event, Quote)] == ["1.00", "1.10", "1.20"]


def test_hook_settings() -> None:
    class Tables:
        @hookimpl
        def relay_settings(self) -> Mapping[str, type]:
            return {"toy": ToySettings}

    plugins = plugins_of(toy=Tables())
    assert settings_with(plugins, plugins={"toy": {"size": 5}}).plugins["toy"] == ToySettings(5)
    with pytest.raises(SettingsError, match=r"plugins\.toy\.sise: unknown key; did you mean size\?"):
        settings_with(plugins, plugins={"toy": {"sise": 5}})


def test_hook_check_settings() -> None:
    given: list[tuple[Mapping[str, Any], list[str]]] = []

    class Configured:
        @hookimpl
        def relay_settings(self) -> Mapping[str, type]:
            return {"toy": ToySettings}

        @hookimpl
        def relay_check_settings(self, settings: Mapping[str, Any], apps: Collection[str]) -> None:
            given.append((settings, list(apps)))

    settings_with(plugins_of(toy=Configured()), plugins={"toy": {"size": 7}})
    assert given == [({"toy": ToySettings(7)}, ["7"])]


def test_what_a_plugin_refuses_stands_with_what_else_is_wrong() -> None:
    class Refusing:
        @hookimpl
        def relay_check_settings(self, apps: Collection[str]) -> None:
            raise ValueError(f"endpoints.a: no app 8;\nthere are {apps}")

    class Failing:
        @hookimpl
        def relay_check_settings(self) -> None:
            raise KeyError("x")

    with pytest.raises(SettingsError) as caught:
        settings_with(plugins_of(refusing=Refusing(), failing=Failing()), log={"level": "loud"})
    first, *rest = caught.value.lines
    assert first.startswith("log.level: ")
    assert sorted(rest) == [
        "plugin failing: relay_check_settings raised KeyError: 'x'",
        "plugin refusing: endpoints.a: no app 8;\\nthere are {'7'}",
    ]


def test_hook_credentials() -> None:
    class Vault:
        @hookimpl
        def relay_credentials(self, provider: str, name: str) -> str | None:
            return f"{provider}:{name}" if provider == "mine" else None

    plugins = plugins_of(adapters=Adapters(), vault=Vault())
    (provider,) = settings_with(plugins, providers={"mine": {"adapter": "toy"}}).providers
    assert provider.accounts[0].credentials == {"token": "mine:token"}
    with pytest.raises(SettingsError, match=r"providers\.other\.credentials\.token: missing; adapter toy needs it"):
        settings_with(plugins, providers={"other": {"adapter": "toy"}})


async def test_hook_authorize() -> None:
    class Doorman:
        @hookimpl
        def relay_authorize(self, api_key: str, channel: str) -> Grant | None:
            return Grant(False, f"not for {api_key}") if "B" in channel else None

    async def use(relay: Relay) -> None:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port_of(relay)}", timeout=WITHIN) as client:
            statuses = {}
            for symbol in ("A", "B"):
                form = {"socket_id": "1.2", "channel_name": f"private-quote.mine.{symbol}"}
                answer = await client.post("/api/v2/ws/auth", data=form, headers={"Authorization": f"Bearer {API_KEY}"})
                statuses[symbol] = (answer.status_code, answer.text)
            assert statuses["A"][0] == 200
            assert statuses["B"][0] == 403
            assert "not for desk" in statuses["B"][1]

    provider = {"adapter": "toy", "credentials": {"token": "t"}}
    await with_relay(plugins_of(toy=Adapters(), door=Doorman()), use, providers={"mine": provider})


async def test_hook_transforms() -> None:
    def halve(event: Event, stamp: Stamp) -> Event | None:
        if isinstance(event, Quote) and event.symbol == "SECRET":
            return None
        if isinstance(event, Quote) and event.symbol == "BROKEN":
            raise RuntimeError("no")
        return attrs.evolve(event, last="7") if isinstance(event, Quote) else event

    class Transforms:
        @hookimpl
        def relay_transforms(self) -> Iterable[hooks.Transform]:
            return [halve]

    async def use(relay: Relay) -> None:
        for symbol in ("A", "SECRET", "BROKEN"):
            relay.publish(Quote(symbol=symbol, bid="1"), STAMP)
        assert relay.hub.snapshot()["published"] == {"quote": 2}
        assert relay.snapshot()["plugins"] == {"failures": {"mine": 1}, "withheld": {"mine": 1}}

    await with_relay(plugins_of(mine=Transforms()), use)


async def test_hook_taps() -> None:
    seen: list[tuple[Event, Stamp, str]] = []

    def raising(event: Event, stamp: Stamp, id: str) -> None:
        raise RuntimeError("a tap's own trouble")

    class Bad:
        @hookimpl
        def relay_taps(self) -> Iterable[hooks.Tap]:
            return [raising]

    class Good:
        @hookimpl
        def relay_taps(self) -> Iterable[hooks.Tap]:
            return [lambda event, stamp, id: seen.append((event, stamp, id))]

    async def use(relay: Relay) -> None:
        quote = Quote(symbol="A", bid="1")
        relay.publish(quote, STAMP)
        ((event, stamp, id),) = seen
        assert (event, stamp) == (quote, STAMP)
        assert id
        assert relay.snapshot()["plugins"]["failures"] == {"bad": 1}

    await with_relay(plugins_of(bad=Bad(), good=Good()), use)


async def idle(relay: RelayApi) -> None:
    await trio.sleep_forever()


async def test_hook_frame_taps() -> None:
    """A session's tap has both directions in order, and ``mask`` knows its secrets; one that raises harms nothing."""
    seen: list[hooks.Traffic] = []
    sessions: list[hooks.TappedSession] = []

    def raising(traffic: hooks.Traffic) -> None:
        raise RuntimeError("a tap's own trouble")

    class Taps:
        @hookimpl
        def relay_frame_taps(self, session: hooks.TappedSession) -> Iterable[hooks.FrameTap]:
            sessions.append(session)
            return [raising, seen.append]

    class Recorder:
        @hookimpl
        def relay_services(self) -> Iterable[Service]:
            return [Service("idle", idle, tap_frames=lambda session: None)]

    frame = dumps({"symbol": "A/B", "bid": "1.00"})
    async with play(Recording((Record(t=1.0, dir="in", data=frame),)), start="subscribe", quiet=0.01) as player:
        provider = {"adapter": "toy", "url": f"{player.ws_url}/{{token}}", "pinned": ["quote A/B"],
                    "accounts": {"main": {"credentials": {"token": "t0ken"}}}}  # fmt: skip

        async def use(relay: Relay) -> None:
            with trio.fail_after(WITHIN):
                while not any(each.direction == "in" for each in seen):
                    await trio.sleep(0.01)
            assert relay.snapshot()["plugins"]["failures"] == {"taps": len(seen)}

        await with_relay(
            plugins_of(toy=Adapters(), taps=Taps(), recorder=Recorder()), use, providers={"mine": provider}
        )
        url = f"{player.ws_url}/t0ken"
    assert [(each.direction, each.data or each.url) for each in seen[:3]] == [
        ("open", url), ("out", '{"subscribe":["A/B"]}'), ("in", frame),
    ]  # fmt: skip
    assert [(each.direction, each.own) for each in seen[3:]] == [("close", True)]
    (session,) = sessions
    assert (session.provider, session.account, session.connection) == ("mine", "main", 1)
    assert "t0ken" not in session.mask(url)


async def test_hook_watchers() -> None:
    seen: list[ChannelEvent] = []

    class Watching:
        @hookimpl
        def relay_watchers(self) -> Iterable[hooks.Watcher]:
            return [seen.append]

    async def use(relay: Relay) -> None:
        subscriber = Subscriber(relay, "lobby")
        subscriber.session.closed(trio.current_time())
        assert [(event.app_id, event.name, event.channel) for event in seen] == [
            (APP["id"], "channel_occupied", "lobby"),
            (APP["id"], "channel_vacated", "lobby"),
        ]

    await with_relay(plugins_of(mine=Watching()), use)


async def test_hook_services(autojump_clock: trio.testing.MockClock) -> None:
    runs: list[int] = []
    feeds: list[RelayApi] = []

    async def failing_once(feed: RelayApi) -> None:
        runs.append(1)
        feeds.append(feed)
        await trio.lowlevel.checkpoint()
        if len(runs) == 1:
            raise RuntimeError("the first time")
        feed.publish(Quote(symbol="A", bid="1"), STAMP)
        await trio.sleep_forever()

    class Services:
        @hookimpl
        def relay_services(self) -> Iterable[Service]:
            return [Service("mine", failing_once)]

    async def use(relay: Relay) -> None:
        await trio.sleep(60)
        assert len(runs) == 2
        assert relay.hub.snapshot()["published"] == {"quote": 1}
        body = b'{"time_ms": 1, "events": []}'
        headers = feeds[0].webhook_headers(APP["id"], body)
        app = relay.hub.app(APP["id"])
        assert app is not None
        assert verify_webhook(app, headers["X-Pusher-Key"], headers["X-Pusher-Signature"], body)
        with pytest.raises(KeyError):
            feeds[0].webhook_headers("999", body)

    await with_relay(plugins_of(mine=Services()), use)


async def test_hook_simulators(capsys: pytest.CaptureFixture[str]) -> None:
    frames = (Record(t=0.0, dir="in", data=dumps({"symbol": "A/B", "bid": "1.50"})),)

    async def simulator(*, task_status: trio.TaskStatus[tuple[str, str]]) -> None:
        async with play(Recording(frames), start="subscribe", quiet=0.01) as player:
            task_status.started((player.ws_url, player.http_url))
            await trio.sleep_forever()

    class Simulators(Adapters):
        @hookimpl
        def relay_simulators(self) -> Iterable[Simulated]:
            return [
                Simulated(
                    provider="pretend", adapter="toy", run=simulator, credentials={"token": "t"}, pinned=("quote A/B",)
                )
            ]

    async with trio.open_nursery() as nursery:
        relay: Relay = await nursery.start(partial(demo, ("127.0.0.1", 0), None, plugins_of(mine=Simulators())))
        with trio.fail_after(WITHIN):
            while "quote" not in relay.hub.snapshot()["published"]:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert "cache-quote.pretend.A-B" in capsys.readouterr().out


def test_hook_commands(capsys: pytest.CaptureFixture[str]) -> None:
    class Commands:
        @hookimpl
        def relay_commands(self) -> Iterable[Any]:
            def greet(name: str) -> None:
                """Greet somebody."""
                print(f"hello {name}")

            return [greet]

    assert command_line(["greet", "you"], plugins_of(mine=Commands())) == 0
    assert capsys.readouterr().out == "hello you\n"


async def test_two_relays_of_one_process_share_nothing_of_a_plugin() -> None:
    """Both are built before either runs: each service gets what the watchers of its own relay see, and its own settings."""
    received: list[tuple[int, RelayApi, str]] = []

    class Watching:
        @hookimpl
        def relay_settings(self) -> Mapping[str, type]:
            return {"toy": ToySettings}

        @hookimpl
        def relay_services(self, relay: RelayApi, settings: Mapping[str, Any]) -> Iterable[Service]:
            events: list[ChannelEvent] = []

            async def run(running: RelayApi) -> None:
                assert running is relay
                while True:
                    await trio.sleep(0.01)
                    while events:
                        received.append((settings["toy"].size, running, events.pop().channel))

            return [Service("watching", run, watch=events.append)]

    plugins = plugins_of(mine=Watching())
    async with HttpClient() as http, trio.open_nursery() as nursery:
        relays = [Relay(settings_with(plugins, plugins={"toy": {"size": size}}), plugins, http) for size in (1, 2)]
        for relay in relays:
            await nursery.start(relay.run)
        for relay, channel in zip(relays, ("first", "second"), strict=True):
            Subscriber(relay, channel)
        with trio.fail_after(WITHIN):
            while len(received) < 2:
                await trio.sleep(0.01)
        occupied = received[:]  # the shutdown vacates the channels
        for relay in relays:
            relay.stop()
    assert sorted(occupied, key=lambda each: each[0]) == [(1, relays[0], "first"), (2, relays[1], "second")]


async def test_transforms_taps_and_watchers_that_raise_are_logged_at_powers_of_ten() -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no")

    class Failing:
        @hookimpl
        def relay_watchers(self) -> Iterable[hooks.Watcher]:
            return [fail]

    class Tapping:
        @hookimpl
        def relay_taps(self) -> Iterable[hooks.Tap]:
            return [fail]

    class Transforming:
        @hookimpl
        def relay_transforms(self) -> Iterable[Any]:
            return [fail]

    async def use(relay: Relay) -> None:
        with structlog.testing.capture_logs() as logs:
            for number in range(12):
                relay.publish(Quote(symbol="A", bid="1"), STAMP)
                Subscriber(relay, f"room-{number}")
        failures = [(each["what"], each["count"]) for each in logs if each["event"] == "plugin failed"]
        assert sorted(failures) == [(what, count) for what in ("tap", "transform", "watcher") for count in (1, 10)]
        assert relay.snapshot()["plugins"]["failures"] == {"a": 12, "b": 12, "c": 12}

    await with_relay(plugins_of(a=Failing(), b=Tapping(), c=Transforming()), use)


async def test_a_reply_that_a_plugin_publishes_completes_the_command() -> None:
    async with trading() as desk, trio.open_nursery() as nursery:
        answers: list[httpx.Response] = []

        async def place() -> None:
            answers.append(await desk.post("first", symbol="SILENT"))

        nursery.start_soon(place)
        with trio.fail_after(WITHIN):
            await desk.venue.came.wait()
        reply = Reply(
            id=desk.venue.placed[0]["place"],
            account="main",
            ok=True,
            outcome=Outcome.ACCEPTED,
            result={"by": "plugin"},
        )
        desk.relay.publish(reply, attrs.evolve(STAMP, provider="one", account="main"))
    assert answers[0].json()["result"] == {"by": "plugin"}


def test_a_hook_that_raises_is_named() -> None:
    class Raising:
        @hookimpl
        def relay_taps(self) -> Iterable[hooks.Tap]:
            raise RuntimeError("no taps today")

    with pytest.raises(PluginError, match="plugin mine: relay_taps raised RuntimeError: no taps today"):
        plugins_of(mine=Raising()).collect("relay_taps")
