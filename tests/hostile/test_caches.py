"""Texts of clients do not stay in memory: what is remembered by a client's text is bounded in bytes."""

import json
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from relay.hub.hub import Hub
from relay.pusher.apps import App
from relay.pusher.connection import ServerConnection
from relay.pusher.messages import ProtocolError
from relay.pusher.names import channel_type, check_channel_name
from relay.server.fastpath.upgrade import read_upgrade

APP = App(id="1", key="key", secrets=("secret",), client_events=True)
LONG = "x" * 15_000
TIMES = 600
#: What may be left of 9 MB: caches of short texts that were empty before.
LEFT = 1_000_000


@contextmanager
def little_is_left() -> Iterator[None]:
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        yield
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < LEFT


def connection() -> ServerConnection:
    opened = ServerConnection(APP, "1.2", 0.0)
    opened.open({"protocol": "7"})
    return opened


def message(event: str, channel: str) -> str:
    return json.dumps({"event": event, "channel": channel, "data": {"channel": channel, "auth": channel}})


@pytest.mark.parametrize(
    "event", ["client-x", "pusher:subscribe", "pusher:unsubscribe", "pusher:signin", "pusher:nothing"]
)
def test_messages_with_long_names_leave_nothing(event: str) -> None:
    client = connection()
    with little_is_left():
        for number in range(TIMES):
            client.receive(message(event, f"{number}{LONG}"), 0.0)
            client.receive(message(event, f"private-{number}{LONG}"), 0.0)


def refused(name: str) -> None:
    with pytest.raises(ProtocolError):
        check_channel_name(name)


@pytest.mark.parametrize("look", [channel_type, refused])
def test_long_channel_names_leave_nothing(look: Callable[[str], object]) -> None:
    with little_is_left():
        for number in range(TIMES):
            look(f"presence-{number}{LONG}")


def test_a_limit_that_allows_long_names_does_not_have_them_remembered() -> None:
    with little_is_left():
        for number in range(TIMES):
            check_channel_name(f"{number}{LONG}", 20_000)


@pytest.mark.parametrize("key", ["key", "unknown", ""])
def test_long_queries_leave_nothing(key: str) -> None:
    hub = Hub([APP], epoch="run", socket_ids=lambda: "1.2", want=print, unwant=print)
    with little_is_left():
        for number in range(TIMES):
            hub.connect(key, f"protocol=7&n={number}&a={LONG}", None, 0.0).closed(0.0)


def test_long_header_names_leave_nothing() -> None:
    head = b"GET /app/key HTTP/1.1\r\nHost: relay\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n%s: 1\r\n\r\n"
    with little_is_left():
        for number in range(TIMES):
            assert read_upgrade(head % f"X-{number}{LONG}".encode(), 16 * 1024) is not None
