"""The plugin as the relay sees it: hooks, settings; and its webhooks as a real server and Pusher's own library see them."""

import json
import re
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import h11
import pusher
import pytest
import trio

from relay.plugins.hookspecs import ChannelEvent
from relay.plugins.manager import PluginError, Plugins, load_plugins
from relay.pusher.apps import App
from relay.settings.reference import describe_settings
from relay.settings.structure import structure
from relay_webhooks.delivery import Webhooks, new_client
from relay_webhooks.endpoints import endpoints_of, pattern
from relay_webhooks.queue import QueueLimits
from relay_webhooks.settings import EVENT_NAMES, WebhooksTable
from support.deadlines import WITHIN
from support.feed import Feed

APP = App(id="3", key="278d425bdf160c739803", secrets=("7ad3773142a6692b25b8",))
ENDPOINT = {"app": 3, "url": "https://app.example/hook"}


def table(**endpoint: Any) -> WebhooksTable:
    reading = structure({"endpoints": {"main": ENDPOINT | endpoint}}, WebhooksTable, negative=True)
    assert reading.problems == []
    assert reading.value is not None
    return reading.value


def problems(**endpoint: Any) -> list[str]:
    at = ("plugins", "webhooks")
    reading = structure({"endpoints": {"main": ENDPOINT | endpoint}}, WebhooksTable, at, negative=True)
    return [str(problem).removeprefix("plugins.webhooks.endpoints.main.") for problem in reading.problems]


# Hooks ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def plugins() -> Plugins:
    plugins = load_plugins([EntryPoint("webhooks", "relay_webhooks", "tickrelay")])
    assert plugins.broken == ()
    plugins.check()
    return plugins


def test_hook_settings_brings_the_table(plugins: Plugins) -> None:
    assert plugins.tables() == {"webhooks": WebhooksTable}


def test_hook_check_settings_names_the_secret_it_cannot_have(plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_TOKEN", raising=False)
    missing = table(secret_headers={"Authorization": {"env": "NO_SUCH_TOKEN"}})
    with pytest.raises(PluginError) as caught:
        plugins.check_settings({"webhooks": missing}, ["7"])
    assert "plugin webhooks" in str(caught.value)
    assert "endpoints.main.secret_headers.Authorization: environment variable NO_SUCH_TOKEN is not set" in str(
        caught.value
    )


def test_hook_check_settings_names_the_app_that_there_is_not(plugins: Plugins) -> None:
    plugins.check_settings({"webhooks": table(app=8)}, ["8", "9"])
    with pytest.raises(PluginError, match=r"endpoints\.main\.app: there is no app 77; .*"):
        plugins.check_settings({"webhooks": table(app="77")}, ["7"])


@pytest.mark.parametrize("settings", [{}, {"webhooks": WebhooksTable()}])
def test_without_an_endpoint_it_brings_nothing(plugins: Plugins, settings: dict[str, Any]) -> None:
    assert plugins.collect("relay_services", relay=Feed(APP), settings=settings) == []


async def test_webhooks_of_two_relays_leave_by_the_relay_that_saw_the_event(
    plugins: Plugins, endpoint_server: "Server"
) -> None:
    """Both are built before either runs, as two relays of one process may be."""
    table_ = table(url=endpoint_server.url, batch=False)
    first, second = (
        plugins.collect("relay_services", relay=Feed(APP), settings={"webhooks": table_})[0].value for _ in range(2)
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.run, Feed(APP))
        nursery.start_soon(second.run, Feed(APP))
        for service, channel in ((first, "one"), (second, "two")):
            service.watch(ChannelEvent(app_id="3", name="channel_occupied", channel=channel))
        await endpoint_server.wait_for(2)
        nursery.cancel_scope.cancel()
    assert sorted(json.loads(body)["events"][0]["channel"] for _, body in endpoint_server.requests) == ["one", "two"]


async def test_hook_services_sends_what_the_watcher_sees(plugins: Plugins, endpoint_server: "Server") -> None:
    settings = {"webhooks": table(url=endpoint_server.url, batch=False)}
    (service,) = plugins.collect("relay_services", relay=Feed(APP), settings=settings)
    assert service.plugin == "webhooks"
    assert service.value.name == "webhooks"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.value.run, Feed(APP))
        service.value.watch(ChannelEvent(app_id="3", name="channel_occupied", channel="room"))
        await endpoint_server.wait_for(1)
        nursery.cancel_scope.cancel()
    assert b"channel_occupied" in endpoint_server.requests[0][1]


# Settings ------------------------------------------------------------------------------------------------------------


def test_every_setting_is_documented() -> None:
    settings = [each for each in describe_settings({"webhooks": WebhooksTable}) if each.path.startswith("plugins.")]
    assert len(settings) > 12
    assert [each.path for each in settings if not each.doc] == []
    assert [each.path for each in settings if each.default == "needed"] == [
        "plugins.webhooks.endpoints.NAME.app",
        "plugins.webhooks.endpoints.NAME.url",
    ]


def test_defaults_are_those_of_the_protocol() -> None:
    (endpoint,) = endpoints_of(table(), {}, Path.read_text)
    assert endpoint.app_id == "3"
    assert endpoint.events == set(EVENT_NAMES)
    assert endpoint.timeout == 4
    assert endpoint.limits == QueueLimits(events=10_000, batch_events=20, batch_wait=0.25, retry_for=300)
    assert table().leave_delay == 3


def test_batching_may_be_off() -> None:
    (endpoint,) = endpoints_of(table(batch=False), {}, Path.read_text)
    assert (endpoint.limits.batch_events, endpoint.limits.batch_wait) == (1, 0)


@pytest.mark.parametrize(
    ("endpoint", "problem"),
    [
        ({"url": "ftp://app.example"}, "url: must be an http:// or https:// URL with a host"),
        ({"url": "app.example/hook"}, "url: must be an http:// or https:// URL with a host"),
        ({"url": "https:///hook"}, "url: must be an http:// or https:// URL with a host"),
        ({"url": "https://app.example:port"}, "url: is not a URL"),
        ({"url": "https://app.example/\n"}, "url: is not a URL"),
        ({"url": "https://me:pass@app.example"}, "url: must not hold a user name or password; write an Authorization header into secret_headers"),
        ({"url": "https://app.example/#x"}, "url: must not have a fragment (#...)"),
        ({"events": ["channel_ocupied"]}, "events[0]: must be channel_occupied, channel_vacated, member_added, member_removed, client_event, cache_miss, subscription_count; did you mean channel_occupied?"),
        ({"events": []}, "events: must not be empty; leave it out for all"),
        ({"channels": []}, "channels: must not be empty; leave it out for all"),
        ({"headers": {"X-Pusher-Key": "x"}}, "headers: must not set X-Pusher-Key, which is the relay's own"),
        ({"headers": {"X A": "x"}}, "headers: has a name that is no HTTP header name"),
        ({"headers": {"X-A": "a\r\nX-B: b"}}, "headers: the value of X-A must be visible ASCII text on one line"),
        ({"headers": {"X-A": ""}}, "headers: the value of X-A must be visible ASCII text on one line"),
        ({"secret_headers": {"Host": {"env": "X"}}}, "secret_headers: must not set Host, which is the relay's own"),
        ({"secret_headers": {"X-A": {}}}, 'secret_headers.X-A: write { env = "NAME" } or { file = "/path" }'),
        ({"secret_headers": {"X-A": {"file": "token"}}}, "secret_headers.X-A: file must be an absolute name"),
        ({"timeout": 0}, "timeout: must be > 0: 0"),
        ({"batch_events": 5000}, "batch_events: must be <= 1000: 5000"),
        ({"queue_events": -1}, "queue_events: must be > 0: -1"),
        ({"uri": "x"}, "uri: unknown key; did you mean url?"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named_and_its_value_kept_out(endpoint: dict[str, Any], problem: str) -> None:
    assert problem in problems(**endpoint)


def test_app_and_url_are_needed() -> None:
    reading = structure({"endpoints": {"main": {}}}, WebhooksTable)
    assert [str(each) for each in reading.problems] == ["endpoints.main.app: missing", "endpoints.main.url: missing"]


def test_secret_headers_come_from_the_environment_and_files(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-file\n")
    settings = table(
        headers={"X-Plain": "plain"},
        secret_headers={"X-Env": {"env": "TOKEN"}, "X-File": {"file": str(tmp_path / "token")}},
    )
    (endpoint,) = endpoints_of(settings, {"TOKEN": "from-env"}, Path.read_text)
    assert endpoint.headers == {"X-Plain": "plain", "X-Env": "from-env", "X-File": "from-file"}
    assert "from-" not in repr(endpoint)


def test_every_secret_that_cannot_be_had_is_named_without_its_value(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    secrets = {
        "A": {"env": "TOKEN"},
        "B": {"file": str(tmp_path / "none")},
        "C": {"file": str(tmp_path / "empty")},
        "D": {"file": str(tmp_path / "binary")},
    }
    with pytest.raises(ValueError) as caught:
        endpoints_of(table(secret_headers=secrets), {"TOKEN": "two\nlines"}, Path.read_text)
    text = str(caught.value)
    assert [text.count(f"endpoints.main.secret_headers.{name}: ") for name in "ABCD"] == [1, 1, 1, 1]
    assert "No such file" in text
    assert "is empty" in text
    assert "not UTF-8" in text
    assert "two" not in text


@pytest.mark.parametrize(
    ("patterns", "channel", "matches"),
    [
        (("*",), "anything", True),
        (("presence-*",), "presence-room", True),
        (("presence-*",), "my-presence-room", False),
        (("*.BTC-USDT",), "quote.binance.BTC-USDT", True),
        (("*.BTC-USDT",), "quote.binanceXBTC-USDT", False),
        (("room",), "room2", False),
        (("a", "quote.*.BTC-*"), "quote.kraken.BTC-USD", True),
    ],
)
def test_a_star_in_a_channel_filter_is_any_text(patterns: tuple[str, ...], channel: str, matches: bool) -> None:
    assert (pattern(patterns).fullmatch(channel) is not None) is matches


def test_the_examples_of_the_guide_are_right() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text()
    examples = re.findall(r"```toml\n(.*?)```", guide, re.S)
    assert examples
    for example in examples:
        (written,) = tomllib.loads(example)["plugins"].values()
        assert structure(written, WebhooksTable, negative=True).problems == []


# A real endpoint -----------------------------------------------------------------------------------------------------


class Server:
    """An HTTP server on a port of the kernel's choice: answers with the next of its statuses, then 200."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/hook"
        self.statuses: list[int] = []
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.connections = 0
        self._arrived = trio.Event()

    async def wait_for(self, count: int) -> None:
        with trio.fail_after(WITHIN):
            while len(self.requests) < count:
                self._arrived = trio.Event()
                await self._arrived.wait()

    async def serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        connection = h11.Connection(h11.SERVER)
        headers, body = {}, bytearray()
        while True:
            match connection.next_event():
                case h11.NEED_DATA:
                    connection.receive_data(await stream.receive_some(65536))
                case h11.Request() as request:
                    headers, body = {name.decode(): value.decode() for name, value in request.headers}, bytearray()
                case h11.Data(data=data):
                    body += data
                case h11.EndOfMessage():
                    status = self.statuses.pop(0) if self.statuses else 200
                    answer = h11.Response(status_code=status, headers=[("Content-Length", "2")])
                    for part in (answer, h11.Data(data=b"ok"), h11.EndOfMessage()):
                        await stream.send_all(connection.send(part))
                    self.requests.append((headers, bytes(body)))
                    self._arrived.set()
                    connection.start_next_cycle()
                case _:
                    return


@pytest.fixture
async def endpoint_server(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> Server:
    for name in ("HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = Server(listeners[0].socket.getsockname()[1])
    nursery.start_soon(trio.serve_listeners, server.serve, listeners)
    return server


async def test_pushers_own_library_accepts_the_webhooks(endpoint_server: Server) -> None:
    """Signed, kept alive over requests, and tried again after a 500; judged by the library applications use."""
    endpoint_server.statuses = [500]
    (endpoint,) = endpoints_of(table(url=endpoint_server.url, batch=False), {}, Path.read_text)
    webhooks = Webhooks([endpoint], leave_delay=0.0, client=new_client, uniform=lambda: 0.999)
    events = [
        ChannelEvent(app_id="3", name="channel_occupied", channel="presence-room"),
        ChannelEvent(
            app_id="3",
            name="client_event",
            channel="presence-room",
            event="client-x",
            data='{"a": "é"}',
            socket_id="1.2",
        ),
        ChannelEvent(app_id="3", name="channel_vacated", channel="presence-room"),
    ]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(webhooks.run, Feed(APP))
        for event in events:
            webhooks.watch(event)
        await endpoint_server.wait_for(4)
        nursery.cancel_scope.cancel()
    library = pusher.Pusher(app_id=APP.id, key=APP.key, secret=APP.secret)
    told = []
    for headers, body in endpoint_server.requests:
        assert headers["content-type"] == "application/json"
        webhook = library.validate_webhook(headers["x-pusher-key"], headers["x-pusher-signature"], body.decode())
        assert webhook is not None
        assert json.loads(body) == webhook
        told.append(webhook["events"][0]["name"])
    assert told == ["channel_occupied", "channel_occupied", "client_event", "channel_vacated"]
    assert endpoint_server.connections == 1
    assert webhooks.senders[0].queue.sent == 3
