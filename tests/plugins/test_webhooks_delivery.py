"""Webhooks from an event to the endpoint, on a clock that jumps: nothing here waits for real."""

import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from relay.plugins.hookspecs import ChannelEvent
from relay.pusher.apps import App
from relay.pusher.signatures import verify_webhook
from relay_webhooks.delivery import MAX_ANSWER, Webhooks, post
from relay_webhooks.endpoints import Endpoint, pattern
from relay_webhooks.queue import QueueLimits
from relay_webhooks.settings import EVENT_NAMES
from support.feed import Feed

APP = App(id="3", key="key3", secrets=("secret3",))
OTHER = App(id="4", key="key4", secrets=("secret4",))
Answer = Callable[[httpx.Request], Any]

Clock = trio.testing.MockClock


class Relay(Feed):
    """A feed that knows two apps."""

    def __init__(self) -> None:
        super().__init__(APP, OTHER)


class Server:
    """An application's server: remembers what it was told, and answers 200 unless told otherwise."""

    def __init__(self, answer: Answer = lambda request: httpx.Response(200)) -> None:
        self.answer = answer
        self.requests: list[tuple[float, httpx.Request]] = []

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(self._handle))

    async def _handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append((trio.current_time(), request))
        answer = self.answer(request)
        response: httpx.Response = await answer if isinstance(answer, Awaitable) else answer
        return response

    def told(self, host: str = "app.example") -> list[list[str]]:
        """The names (or the data) of the events, webhook by webhook."""
        bodies = [json.loads(request.content) for _, request in self.requests if request.url.host == host]
        return [[event.get("data", event["name"]) for event in body["events"]] for body in bodies]

    @property
    def times(self) -> list[float]:
        return [at for at, _ in self.requests]


def endpoint(name: str = "main", **changes: Any) -> Endpoint:
    given: dict[str, Any] = {
        "app_id": "3",
        "url": "https://app.example/hook?token=url-secret",
        "events": frozenset(EVENT_NAMES),
        "channels": pattern(("*",)),
        "headers": {"Authorization": "Bearer header-secret"},
        "timeout": 4.0,
        "limits": QueueLimits(),
    }
    return Endpoint(name=name, **given | changes)


def event(
    name: str = "client_event", channel: str = "presence-room", app_id: str = "3", **details: Any
) -> ChannelEvent:
    return ChannelEvent(app_id=app_id, name=name, channel=channel, **details)


def serving(
    server: Server, *endpoints: Endpoint, feed: Relay | None = None, **options: Any
) -> AbstractAsyncContextManager[Webhooks]:
    """The service running; at the end it is cancelled, as at a shutdown."""

    @asynccontextmanager
    async def run() -> Any:
        webhooks = Webhooks(
            endpoints or (endpoint(),),
            client=server.client,
            uniform=lambda: 0.0,
            time_ms=lambda: 1_700_000_000_000,
            **options,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(webhooks.run, feed or Relay())
            await trio.testing.wait_all_tasks_blocked()
            yield webhooks
            nursery.cancel_scope.cancel()

    return run()


async def test_events_are_batched_signed_and_typed(autojump_clock: Clock) -> None:
    server = Server()
    async with serving(server) as webhooks:
        webhooks.watch(event("channel_occupied"))
        webhooks.watch(event("member_added", user_id="ann"))
        await trio.sleep(1)
    ((at, request),) = server.requests
    assert at == 0.25
    assert request.method == "POST"
    assert json.loads(request.content) == {
        "time_ms": 1_700_000_000_000,
        "events": [
            {"name": "channel_occupied", "channel": "presence-room"},
            {"name": "member_added", "channel": "presence-room", "user_id": "ann"},
        ],
    }
    assert request.headers["content-type"] == "application/json"
    assert request.headers["authorization"] == "Bearer header-secret"
    assert verify_webhook(APP, request.headers["x-pusher-key"], request.headers["x-pusher-signature"], request.content)


async def test_each_endpoint_gets_its_apps_events_through_its_filters(autojump_clock: Clock) -> None:
    server = Server()
    rooms = endpoint("rooms", url="http://rooms.example", channels=pattern(("presence-*", "*.BTC-USDT")))
    members = endpoint("members", url="http://members.example", events=frozenset({"member_added"}))
    other = endpoint("other", url="http://other.example", app_id="4")
    async with serving(server, rooms, members, other) as webhooks:
        webhooks.watch(event("channel_occupied", "presence-room"))
        webhooks.watch(event("member_added", "presence-room", user_id="ann"))
        webhooks.watch(event("channel_occupied", "private-presence-room"))
        webhooks.watch(event("cache_miss", "quote.binance.BTC-USDT"))
        webhooks.watch(event("channel_occupied", "room", app_id="4"))
        webhooks.watch(event("channel_occupied", "room", app_id="5"))
        await trio.sleep(1)
    assert server.told("rooms.example") == [["channel_occupied", "member_added", "cache_miss"]]
    assert server.told("members.example") == [["member_added"]]
    assert server.told("other.example") == [["channel_occupied"]]


async def test_departures_are_told_after_three_seconds_unless_taken_back(autojump_clock: Clock) -> None:
    server = Server()
    # The arrival takes the departure back though the endpoint is not told of arrivals.
    departures = endpoint(events=frozenset({"channel_vacated", "member_removed"}))
    async with serving(server, departures) as webhooks:
        webhooks.watch(event("member_removed", user_id="ann"))
        webhooks.watch(event("channel_vacated"))
        await trio.sleep(2)
        webhooks.watch(event("channel_occupied"))
        await trio.sleep(10)
    assert server.told() == [["member_removed"]]
    assert server.times == [3.25]


async def test_what_is_refused_is_tried_again_in_order_and_signed_anew(autojump_clock: Clock) -> None:
    answers = iter([500, 302, 404, 200, 200])
    server = Server(lambda request: httpx.Response(next(answers), headers={"location": "http://elsewhere.example"}))
    feed = Relay()
    with capture_logs() as logs:
        async with serving(server, feed=feed) as webhooks:
            webhooks.watch(event(data="first"))
            await trio.sleep(1)
            webhooks.watch(event(data="second"))
            feed.apps["3"] = App(id="3", key="key3", secrets=("newer", "secret3"))
            await trio.sleep(60)
    assert server.times == [0.25, 1.25, 3.25, 7.25, 7.25]
    assert server.told() == [["first"]] * 4 + [["second"]]
    signatures = [request.headers["x-pusher-signature"] for _, request in server.requests]
    assert signatures[0] != signatures[1] == signatures[2]
    assert {request.url.host for _, request in server.requests} == {"app.example"}
    assert [(line["event"], line["log_level"]) for line in logs] == [
        ("webhook_not_accepted", "warning"),
        ("webhooks_accepted_again", "info"),
    ]
    assert logs[0]["problem"] == "status 500"


async def test_an_endpoint_that_stays_down_costs_a_webhook_after_five_minutes(autojump_clock: Clock) -> None:
    server = Server(lambda request: httpx.Response(503))
    with capture_logs() as logs:
        async with serving(server, drain=0.0) as webhooks:
            webhooks.watch(event(data="lost"))
            await trio.sleep(300.5)
            server.answer = lambda request: httpx.Response(204)
            webhooks.watch(event(data="next"))
            await trio.sleep(31)
    assert server.told()[-2:] == [["lost"], ["next"]]
    assert server.times[-2] == 300.25
    assert webhooks.senders[0].queue.losses.total == {"not_accepted": 1}
    lost = next(line for line in logs if line["event"] == "webhook_events_lost")
    assert (lost["endpoint"], lost["problem"], lost["not_accepted"]) == ("main", "status 503", 1)


async def test_no_answer_is_given_up_at_the_deadline_and_delays_nobody_else(autojump_clock: Clock) -> None:
    async def never(request: httpx.Request) -> httpx.Response:
        if request.url.host == "app.example":
            await trio.sleep_forever()
        return httpx.Response(200)

    server = Server(never)
    with capture_logs() as logs:
        async with serving(
            server, endpoint(), endpoint("healthy", url="http://healthy.example"), drain=0.0
        ) as webhooks:
            webhooks.watch(event())
            await trio.sleep(9)
            webhooks.watch(event())
            await trio.sleep(1)
    assert logs[0]["problem"] == "no answer within 4 s"
    assert [at for at, request in server.requests if request.url.host == "app.example"] == [0.25, 5.25]
    assert [at for at, request in server.requests if request.url.host == "healthy.example"] == [0.25, 9.25]


async def test_nothing_that_may_be_secret_is_logged(autojump_clock: Clock) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError(f"no route to {request.url} with {request.headers}")

    with capture_logs() as logs:
        async with serving(Server(fail), drain=0.0) as webhooks:
            webhooks.watch(event(data="private-data"))
            await trio.sleep(400)
    assert logs
    assert logs[0]["problem"] == "ConnectError"
    text = repr((logs, endpoint()))
    assert not [word for word in ("secret", "app.example", "private-data") if word in text]


async def test_overflow_is_counted_and_logged_once_per_period(autojump_clock: Clock) -> None:
    server = Server(lambda request: httpx.Response(500))
    with capture_logs() as logs:
        async with serving(server, endpoint(limits=QueueLimits(events=10)), drain=0.0) as webhooks:
            for _ in range(25):
                webhooks.watch(event())
            await trio.sleep(30)
            for _ in range(5):
                webhooks.watch(event())
            assert webhooks.senders[0].queue.losses.total["queue_full"] >= 15
            assert [line["queue_full"] for line in logs if "queue_full" in line] == [1]
            counts, levels = webhooks.counts(), webhooks.levels()
            name = webhooks.senders[0].endpoint.name
            assert (counts[name, "sent"], counts[name, "lost_shutdown"]) == (0, 0)
            assert counts[name, "lost_queue_full"] + counts[name, "lost_not_accepted"] + levels[name, "waiting"] == 30
            assert levels[name, "failures"] > 0
    lost = [line for line in logs if line["event"] == "webhook_events_lost"]
    total = sum(line.get(reason, 0) for line in lost for reason in ("queue_full", "not_accepted", "shutdown"))
    assert total == 30


async def test_without_its_app_an_endpoint_is_told_nothing_and_the_log_says_so(autojump_clock: Clock) -> None:
    server, feed = Server(), Relay()
    del feed.apps["3"]
    with capture_logs() as logs:
        async with serving(server, feed=feed) as webhooks:
            webhooks.watch(event())
            await trio.sleep(1)
    assert server.requests == []
    assert [line["event"] for line in logs] == ["webhooks_for_no_app", "webhook_events_lost"]
    assert logs[1]["no_such_app"] == 1


# Shutdown ------------------------------------------------------------------------------------------------------------


async def test_a_shutdown_sends_what_waits_and_what_was_held_back(autojump_clock: Clock) -> None:
    server = Server()
    async with serving(server, endpoint(limits=QueueLimits(batch_events=2, batch_wait=60.0))) as webhooks:
        for n in range(3):
            webhooks.watch(event(data=str(n)))
        webhooks.watch(event("channel_vacated"))
        await trio.sleep(1)
        assert server.told() == [["0", "1"]]
    assert server.told() == [["0", "1"], ["2", "channel_vacated"]]
    assert server.times == [0, 1]


async def test_a_request_on_its_way_is_not_cut_off_and_a_refused_one_is_tried_within_the_deadline(
    autojump_clock: Clock,
) -> None:
    async def slow(request: httpx.Request) -> httpx.Response:
        await trio.sleep(2)
        return httpx.Response(500 if len(server.requests) == 1 else 200)

    server = Server(slow)
    async with serving(server) as webhooks:
        webhooks.watch(event())
        await trio.sleep(1)
    assert webhooks.senders[0].queue.sent == 1
    assert server.times == [0.25, 3.25]
    assert trio.current_time() == 5.25


async def test_what_is_left_at_the_deadline_is_counted_and_logged(autojump_clock: Clock) -> None:
    async def never(request: httpx.Request) -> None:
        await trio.sleep_forever()

    with capture_logs() as logs:
        async with serving(Server(never), drain=3.0) as webhooks:
            for _ in range(30):
                webhooks.watch(event())
            await trio.sleep(1)
        webhooks.watch(event())  # too late
    assert trio.current_time() == 4.0
    assert [line["shutdown"] for line in logs if line["event"] == "webhook_events_lost"] == [30]
    assert webhooks.senders[0].queue.losses.total == {"shutdown": 31}


async def test_started_again_after_a_failure_it_sends_what_waited(autojump_clock: Clock) -> None:
    class Failing(Relay):
        failed = False

        def webhook_headers(self, app_id: str, body: bytes) -> Mapping[str, str]:
            if body and not self.failed:
                self.failed = True
                raise RuntimeError("not ready")
            return super().webhook_headers(app_id, body)

    server, feed = Server(), Failing()
    webhooks = Webhooks([endpoint()], client=server.client)
    webhooks.watch(event(data="kept"))
    with pytest.RaisesGroup(RuntimeError, flatten_subgroups=True):
        await webhooks.run(feed)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(webhooks.run, feed)
        await trio.sleep(1)
        webhooks.watch(event(data="later"))
        await trio.sleep(1)
        assert server.told() == [["kept"], ["later"]]
        nursery.cancel_scope.cancel()


# Answers -------------------------------------------------------------------------------------------------------------


class Body(httpx.AsyncByteStream):
    """A body that counts what is read of it, and may not end."""

    def __init__(self, size: float) -> None:
        self.size, self.read, self.closed = size, 0, False

    async def __aiter__(self) -> Any:
        while self.read < self.size:
            self.read += 1024
            await trio.sleep(0.01)
            yield b"x" * 1024

    async def aclose(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("size", "headers", "read"),
    [
        (2048.0, {"content-length": "2048"}, 2048),
        (MAX_ANSWER * 4.0, {"content-length": str(MAX_ANSWER * 4)}, 0),
        (float("inf"), {"transfer-encoding": "chunked"}, 0),
        (float("inf"), {"transfer-encoding": "chunked", "content-length": "1"}, 0),
        (float("inf"), {}, 0),
    ],
)
async def test_a_long_answer_is_not_read(
    size: float, headers: dict[str, str], read: int, autojump_clock: Clock
) -> None:
    body = Body(size)
    server = Server(lambda request: httpx.Response(200, headers=headers, stream=body))
    async with server.client() as client:
        assert await post(client, "http://app.example", b"{}", {}, 4.0) is None
    assert body.read == read
    assert body.closed


async def test_an_answer_whose_body_stalls_or_breaks_counts_by_its_status(autojump_clock: Clock) -> None:
    class Broken(Body):
        async def __aiter__(self) -> Any:
            yield b"x"
            raise httpx.ReadError("reset")

    for body in (Broken(1), Body(float("inf"))):
        server = Server(lambda request, body=body: httpx.Response(200, headers={"content-length": "9999"}, stream=body))
        async with server.client() as client:
            assert await post(client, "http://app.example", b"{}", {}, 1.0) is None


async def test_what_waits_is_sent_after_a_restart_and_a_webhook_on_its_way_again_with_its_id(
    autojump_clock: Clock,
) -> None:
    rows: dict[str, bytes] = {}

    class Kept(Relay):
        """A feed with a store."""

        def __init__(self) -> None:
            super().__init__()
            self.left = list(rows.items())

        several = False

        def kept_rows(self, table: str) -> list[tuple[str, bytes]]:
            return self.left

        def keep_row(self, table: str, key: str, value: bytes | None) -> None:
            if value is None:
                rows.pop(key, None)
            else:
                rows[key] = value

        async def rows_kept(self) -> bool:
            return True

    async def process(server: Server, *names: str) -> None:
        webhooks = Webhooks([endpoint(events=EVENT_NAMES)], client=server.client, leave_delay=0.0, drain=1.0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(webhooks.run, Kept())
            await trio.sleep(0.1)
            for name in names:
                webhooks.watch(ChannelEvent(app_id=APP.id, name="channel_occupied", channel=name))
                await trio.sleep(1)
            nursery.cancel_scope.cancel()

    def told(server: Server) -> list[tuple[str, list[str]]]:
        return [
            (request.headers["x-webhook-id"], [event["channel"] for event in json.loads(request.content)["events"]])
            for _, request in server.requests
        ]

    away, back = Server(lambda request: httpx.Response(500)), Server()
    await process(away, "first", "second")
    ((id, channels), *_), kept = told(away), len(rows)
    assert (channels, kept) == (["first"], 2)
    await process(back)
    again, rest = told(back)
    assert again == (id, ["first"])
    assert rest[1] == ["second"]
    assert rest[0] != id
    assert not rows
