"""Send webhooks with one task per endpoint, so that a slow endpoint delays only itself.

A request has one deadline, follows no redirect and reads little of the answer's body. Only the name of an endpoint is
logged: URLs and headers may carry tokens, and httpx puts both into the texts of its errors.

When the service is cancelled, it releases the held departures (subscribers that return after the restart are reported as
new), finishes running requests and sends waiting events, all within the drain deadline. Events that remain are sent after
the restart, as are those that a crash left; without a store they are lost, counted and logged. A webhook's id is in the
header X-Webhook-Id: one that is sent again, because its answer did not come, has the same.

Of several relays one sends, as long as the rows that it keeps are its own. Where it ends, the next one goes on with all that
waits, and with the departures that are held.
"""

import json
import logging
import math
import random
import time
import uuid
from collections.abc import Callable, Iterable, Mapping

import attrs
import httpx
import structlog
import trio

from relay.plugins.hookspecs import ChannelEvent, RelayApi
from relay_webhooks.departures import Departures
from relay_webhooks.endpoints import Endpoint
from relay_webhooks.payload import encode_event, kind_of
from relay_webhooks.queue import EXPIRED, OVERFLOW, Batch, EventQueue

#: The table of waiting events in the relay's store.
TABLE = "webhooks"
#: The table of the departures that are held.
HELD = "webhook_departures"
#: Seconds that a shutdown waits for the store.
KEEP = 2.0
SHUTDOWN = "shutdown"
NO_APP = "no_such_app"

#: Bytes of the longest answer that is read.
MAX_ANSWER = 16 * 1024

log = structlog.get_logger()


def new_client() -> httpx.AsyncClient:
    """Return an HTTP client that uses the proxies and certificates of the environment."""
    for name in ("httpx", "httpcore"):  # both log whole URLs and headers
        logging.getLogger(name).setLevel(logging.WARNING)
    return httpx.AsyncClient(follow_redirects=False, headers={"User-Agent": "tickrelay-webhooks"})


class Sender:
    """Send webhooks to one endpoint."""

    def __init__(self, endpoint: Endpoint, uniform: Callable[[], float]) -> None:
        self.endpoint = endpoint
        self.queue = self._new_queue()
        self._sent_first = ""
        self._uniform = uniform
        self._woken = trio.Event()
        self._stopping = self._is_restored = False
        self._problem: str | None = None
        self._is_another = False

    def forget(self) -> None:
        """Drop what waits: another relay goes on with what was kept."""
        self.queue = self._new_queue()
        self._stopping = self._is_restored = self._is_another = False
        self._sent_first = ""

    def _new_queue(self) -> EventQueue:
        return EventQueue(self.endpoint.limits, lambda: uuid.uuid4().hex, time.time_ns() // 1000)

    def start(self, relay: RelayApi) -> None:
        """Take over what a restart left; undo `stop`, where the service is started again after a failure."""
        if not self._is_restored:
            self._is_restored = True
            prefix = f"{self.endpoint.name}\n"
            self.queue.on_change = lambda key, value: relay.keep_row(TABLE, prefix + key, value)
            rows = [
                (key.removeprefix(prefix), value) for key, value in relay.kept_rows(TABLE) if key.startswith(prefix)
            ]
            waiting = self.queue.take_all()
            self.queue.restore(rows, trio.current_time())
            for event in waiting:  # those of the moment before the service ran
                self.queue.put(*event)
        self._stopping = False

    def put(self, event: bytes, now: float, time_ms: int, kind: str) -> None:
        """Add an encoded event to the queue."""
        self.queue.put(event, now, time_ms, kind)
        self.report(now)
        self._woken.set()

    def stop(self) -> None:
        """Let `run` end once the queue is empty."""
        self._stopping = True
        self._woken.set()

    async def run(self, client: httpx.AsyncClient, relay: RelayApi) -> None:
        """Send until stopped."""
        while not self._is_another:
            self._woken = trio.Event()
            step = self.queue.look(trio.current_time(), at_once=self._stopping)
            if isinstance(step, Batch):
                await self._send(client, relay, step)
            elif self._stopping and not len(self.queue):
                return
            else:
                with trio.move_on_at(step):
                    await self._woken.wait()

    def report(self, now: float, *, last: bool = False) -> None:
        """Log the events lost since the last report, at a limited rate unless it is the ``last`` one."""
        if lost := self.queue.losses.report(now, at_once=last):
            log.error("webhook_events_lost", endpoint=self.endpoint.name, problem=self._problem, **lost)

    async def _send(self, client: httpx.AsyncClient, relay: RelayApi, batch: Batch) -> None:
        try:
            signed = relay.webhook_headers(self.endpoint.app_id, batch.body)  # every time: the secret may have changed
        except KeyError:
            self.queue.drop(NO_APP)
            self.report(trio.current_time())
            await trio.lowlevel.checkpoint()
            return
        if self._sent_first != batch.id or relay.several:  # its id must be on disk: it has the same after a crash
            self._sent_first = batch.id
            self._is_another = not await relay.rows_kept() and relay.several
            if self._is_another:
                return
        headers = {
            **self.endpoint.headers, **signed, "Content-Type": "application/json", "X-Webhook-Id": batch.id
        }  # fmt: skip
        problem = await post(client, self.endpoint.url, batch.body, headers, self.endpoint.timeout)
        if problem is None:
            self._accepted()
        else:
            self._failed(problem)

    def _accepted(self) -> None:
        if self.queue.failures:
            log.info("webhooks_accepted_again", endpoint=self.endpoint.name, after=self.queue.failures)
        self.queue.accepted()
        self._problem = None

    def _failed(self, problem: str) -> None:
        now = trio.current_time()
        self.queue.failed(now, self._uniform())
        self._problem = problem
        if self.queue.failures == 1:
            log.warning("webhook_not_accepted", endpoint=self.endpoint.name, problem=problem)
        self.report(now)


async def post(client: httpx.AsyncClient, url: str, body: bytes, headers: dict[str, str], within: float) -> str | None:
    """Post a body within ``within`` seconds. Return None if it is accepted (a 2xx status), else the problem."""
    status: int | None = None
    with trio.move_on_after(within):
        try:
            async with client.stream("POST", url, content=body, headers=headers, timeout=within) as response:
                status = response.status_code
                if _is_short(response):
                    async for _ in response.aiter_raw():
                        pass
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            if status is None:
                return type(error).__name__
    if status is None:
        return f"no answer within {within:g} s"
    return None if 200 <= status < 300 else f"status {status}"


def _is_short(response: httpx.Response) -> bool:
    """Return True if the body is short enough to read, which lets the connection serve the next request."""
    length = response.headers.get("content-length", "")
    return length.isdecimal() and int(length[:9]) <= MAX_ANSWER and "transfer-encoding" not in response.headers


class Webhooks:
    """All endpoints of a relay: `watch` receives channel events, `run` sends them.

    Args:
        endpoints: the receivers.
        leave_delay: seconds to hold departures.
        drain: seconds to send waiting events after `run` is cancelled.
        client: makes the HTTP client; `run` closes it.
        uniform: random numbers in [0, 1), for the waits before retries.
        time_ms: Unix time in milliseconds.
    """

    def __init__(
        self,
        endpoints: Iterable[Endpoint],
        *,
        leave_delay: float = 3.0,
        drain: float = 5.0,
        client: Callable[[], httpx.AsyncClient] = new_client,
        uniform: Callable[[], float] = random.random,
        time_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.senders = [Sender(endpoint, uniform) for endpoint in endpoints]
        self._departures = Departures(leave_delay)
        self._drain = drain
        self._client = client
        self._time_ms = time_ms
        self._by_app: dict[str, list[Sender]] = {}
        for sender in self.senders:
            self._by_app.setdefault(sender.endpoint.app_id, []).append(sender)
        self._held = trio.Event()
        self._stopping = self._ended = False

    def watch(self, event: ChannelEvent) -> None:
        """Receive an event; `run` sends it."""
        if event.app_id not in self._by_app:
            return
        now = trio.current_time()
        for released in [event] if self._stopping else self._departures.pass_on(event, now):
            self._release_now(released, now)
        self._held.set()

    def counts(self) -> Mapping[tuple[str, str], float]:
        """Return the events that each endpoint accepted, and those that were lost, by reason."""
        found: dict[tuple[str, str], float] = {}
        for sender in self.senders:
            name, queue = sender.endpoint.name, sender.queue
            found[name, "sent"] = queue.sent
            losses = dict.fromkeys((OVERFLOW, EXPIRED, NO_APP, SHUTDOWN), 0) | queue.losses.total
            found |= {(name, f"lost_{reason}"): count for reason, count in losses.items()}
        return found

    def levels(self) -> Mapping[tuple[str, str], float]:
        """Return the events that wait for each endpoint, and its failed attempts since the last that was accepted."""
        found: dict[tuple[str, str], float] = {}
        for sender in self.senders:
            name, queue = sender.endpoint.name, sender.queue
            found |= {(name, "waiting"): len(queue), (name, "failures"): queue.failures}
        return found

    async def run(self, relay: RelayApi) -> None:
        """Send until cancelled, then send the rest within the drain deadline."""
        self._start(relay)
        self._warn_of_unknown_apps(relay)
        scope = trio.CancelScope(shield=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._work, relay, scope)
            try:
                await trio.sleep_forever()
            finally:
                self._stop(hold=relay.several)
                scope.deadline = trio.current_time() + self._drain

    async def _work(self, relay: RelayApi, scope: trio.CancelScope) -> None:
        with scope:
            async with self._client() as client, trio.open_nursery() as nursery:
                nursery.start_soon(self._release)
                for sender in self.senders:
                    nursery.start_soon(sender.run, client, relay)
        self._ended = True
        with trio.CancelScope(shield=True), trio.move_on_after(KEEP):
            if await relay.rows_kept() and not relay.several:  # they are sent after the restart
                return
        if relay.several:
            self._forget()
            return
        for sender in self.senders:
            sender.queue.drop_all(SHUTDOWN)
            sender.report(trio.current_time(), last=True)

    async def _release(self) -> None:
        """Send departures when their delay is over."""
        while not self._stopping:
            self._held = trio.Event()
            now = trio.current_time()
            for event in self._departures.due(now):
                self._release_now(event, now)
            with trio.move_on_at(self._departures.next_at):
                await self._held.wait()

    def _forget(self) -> None:
        self._stopping = self._ended = False
        self._departures.forget()
        for sender in self.senders:
            sender.forget()

    def _start(self, relay: RelayApi) -> None:
        self._stopping = self._ended = False
        self._restore_held(relay)
        for sender in self.senders:
            sender.start(relay)

    def _restore_held(self, relay: RelayApi) -> None:
        """Hold what was held before, each as long as it was to be held, and keep it until it is in a queue."""
        now, time_ms = trio.current_time(), self._time_ms()
        held = self._departures.due(math.inf)

        def keep(key: str, event: ChannelEvent | None) -> None:
            until = self._time_ms() + int(self._departures.delay * 1000)
            row = None if event is None else json.dumps([until, attrs.asdict(event)]).encode()
            relay.keep_row(HELD, key, row)

        self._departures.on_change = keep
        rows: list[tuple[int, ChannelEvent]] = []
        for key, value in relay.kept_rows(HELD):
            try:
                until, members = json.loads(value)
                rows.append((until, ChannelEvent(**members)))
            except (ValueError, TypeError):
                relay.keep_row(HELD, key, None)
        for until, event in sorted(rows, key=lambda row: row[0]):
            self._departures.restore(event, now + min(self._departures.delay, max(0, until - time_ms) / 1000))
        for event in held:
            self._departures.pass_on(event, now)

    def _release_now(self, event: ChannelEvent, now: float) -> None:
        self._enqueue(event, now)
        self._departures.sent(event)

    def _stop(self, *, hold: bool) -> None:
        self._stopping = True
        now = trio.current_time()
        for event in () if hold else self._departures.due(math.inf):
            self._release_now(event, now)
        for sender in self.senders:
            sender.stop()
        self._held.set()

    def _enqueue(self, event: ChannelEvent, now: float) -> None:
        encoded, time_ms = encode_event(event), self._time_ms()
        for sender in self._by_app[event.app_id]:
            if not sender.endpoint.wants(event):
                continue
            if self._ended:
                sender.queue.losses.add(SHUTDOWN, 1)
                sender.report(now)
            else:
                sender.put(encoded, now, time_ms, kind_of(event))

    def _warn_of_unknown_apps(self, relay: RelayApi) -> None:
        for sender in self.senders:
            try:
                relay.webhook_headers(sender.endpoint.app_id, b"")
            except KeyError:
                endpoint = sender.endpoint
                log.warning("webhooks_for_no_app", endpoint=endpoint.name, app=endpoint.app_id)
