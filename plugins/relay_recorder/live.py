"""Run one configured provider for a while, without a relay around it: for probes and for recordings.

Nothing is ever ordered: the adapter has no commands here, and what would write one is refused.
"""

import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio
from attrs import Factory, define

from relay.adapter import Adapter, Answer, Fetch
from relay.errors import OperatorError, hide_userinfo
from relay.model.channels import Topic
from relay.model.commands import Command
from relay.model.enums import ConnectionEvent
from relay.model.events import Connection, Event, Stamp
from relay.plugins import TappedSession
from relay.plugins.masking import masked_text
from relay.provider.driver import ProviderSession
from relay.provider.http import HttpClient
from relay.providers import ConfiguredProvider
from relay.settings import ProviderSettings
from relay.testing.trial import Observer, Report, topic_text
from relay.trading.registry import CommandRegistry
from relay_recorder.recorder import Recorder
from relay_recorder.table import RecorderTable

#: Seconds between two looks at the symbols that were learned.
_LOOK = 0.1
#: Seconds for the connection to be closed.
_GOODBYE = 2.0


@define
class Probe:
    """The report on a provider that was probed.

    Attributes:
        seconds: how long it ran.
        connected: seconds until the session was up; None if it never was.
        first_data: seconds until the first event, by kind.
        round_trips: seconds of HTTP requests.
        clock: seconds that the provider's clock is ahead by the Date headers of its answers, which have no fractions.
        quiet: streams that were subscribed and brought nothing.
    """

    report: Report
    provider: str
    seconds: float = 0.0
    connected: float | None = None
    first_data: dict[str, float] = Factory(dict)
    round_trips: list[float] = Factory(list)
    clock: list[float] = Factory(list)
    quiet: list[str] = Factory(list)
    status: Mapping[str, Any] = Factory(dict)
    mask: Callable[[str], str] = hide_userinfo

    @property
    def problems(self) -> list[str]:
        """Return what is wrong, a line each."""
        found = list(self.report.problems)
        if self.connected is None and not self.report.failed:
            found.insert(0, f"the session was never up: {self.status.get('reason') or self.status.get('state')}")
        return found + [f"no data: {each}" for each in self.quiet if each.startswith(("quote", "depth"))]


class _Http(HttpClient):
    """Measures the requests, and the provider's clock by their answers."""

    def __init__(self, probe: Probe) -> None:
        super().__init__()
        self._probe = probe

    async def fetch(self, fetch: Fetch, url: str) -> Answer:
        began = time.time()
        answer = await super().fetch(fetch, url)
        took = time.time() - began
        if answer.status:
            self._probe.round_trips.append(took)
            try:
                told = parsedate_to_datetime(answer.headers.get("date", "")).timestamp()
            except (ValueError, OverflowError):
                return answer
            self._probe.clock.append(told + 0.5 - (began + took / 2))
        return answer


def without_commands(adapter: type[Adapter]) -> type[Adapter]:
    """Return the adapter as one that takes no commands, and writes none."""

    def encode(self: Adapter, outgoing: Any) -> Iterable[Any]:
        if isinstance(outgoing, Command):
            raise ValueError("nothing is ordered here: a probe only reads")
        return adapter.encode(self, outgoing)

    return type(adapter.__name__, (adapter,), {"commands": (), "encode": encode})


async def run_provider(
    settings: ProviderSettings,
    seconds: float,
    *,
    account: str | None = None,
    topics: tuple[Topic, ...] = (),
    frames: Path | None = None,
    events: Path | None = None,
    loses: bool = True,
    stopped: trio.Event | None = None,
    progress: Callable[[str], object] = lambda line: None,
) -> Probe:
    """Run a provider's session for a while, and return what it did.

    Args:
        account: which of several accounts; the first one when absent.
        topics: what is subscribed; when absent, what is pinned and an example of everything else that is offered.
        frames, events: files in which the traffic and the events are recorded.
        loses: look for values that no event has.
        stopped: ends it sooner.
        progress: takes a line when something has changed.
    """
    for path in filter(None, (frames, events)):
        if path.exists():
            raise OperatorError(f"{path} is there already")
    observer = Observer(loses=loses)
    probe = Probe(observer.report, settings.name)
    began = trio.current_time()
    recorder = Recorder(RecorderTable(directory="."), frames=frames, events=events)

    def publish(event: Event, stamp: Stamp, now: float) -> None:
        observer.where = stamp.received_at
        observer.publish(event, stamp)
        if events is not None:
            recorder.take_event(event, stamp, f"{settings.name}-{sum(observer.report.published.values())}")
        after = round(trio.current_time() - began, 3)
        if isinstance(event, Connection):
            if event.event is ConnectionEvent.CONNECTED and probe.connected is None:
                probe.connected = after
            progress(f"{settings.name}: {event.event.value.lower()}{f': {event.reason}' if event.reason else ''}")
        elif event.kind in observer.report.published and event.kind not in probe.first_data:
            probe.first_data[event.kind] = after
            progress(f"{settings.name}: first {event.kind} after {after} s")

    probed = attrs.evolve(
        settings,
        adapter=observer.adapter(without_commands(settings.adapter)),
        accounts=tuple(each for each in settings.accounts if account in (None, each.name))[:1],
        pinned=topics or settings.pinned,
    )
    if not probed.accounts:
        names = ", ".join(str(each.name) for each in settings.accounts)
        raise OperatorError(f"--account: provider {settings.name} has no account {account}; there are: {names}")
    async with _Http(probe) as http, _recording(recorder, frames is not None or events is not None):
        provider = ConfiguredProvider(probed, http, publish, CommandRegistry(), _no_log)
        if frames is not None:
            provider.tap_each(partial(_tap, recorder, settings.name))
        async with trio.open_nursery() as nursery:
            (pool,) = provider.sessions.values()
            pool.run_each(lambda number, connection: nursery.start_soon(connection.run))
            with trio.move_on_after(seconds):
                wanted = set(probed.pinned)
                while stopped is None or not stopped.is_set():
                    if not topics:
                        for topic in _examples(provider, wanted):
                            provider.session(topic).want(topic)
                    if pool.first.status()["state"] == "failed":
                        break
                    await trio.sleep(_LOOK)
            probe.seconds = round(trio.current_time() - began, 3)
            probe.status, probe.mask = pool.status(), pool.first.mask
            for _, connection in provider.connections():
                connection.shutdown()
            nursery.cancel_scope.deadline = trio.current_time() + _GOODBYE
    observer.report.topics = tuple(sorted(wanted, key=topic_text))
    observer.report.dropped = dict(probe.status["counters"]["dropped"])
    quiet = [
        topic for topic in observer.report.topics if topic.kind not in probe.first_data and topic.kind != "account"
    ]
    probe.quiet = [topic_text(topic) for topic in quiet]
    return probe


def _examples(provider: ConfiguredProvider, wanted: set[Topic]) -> list[Topic]:
    """Return a topic for each kind that is offered and not wanted yet, as far as symbols are known."""
    kinds, found = {topic.kind for topic in wanted}, []
    for entry in provider.catalog():
        if entry.kind not in kinds and entry.kind != "status" and entry.complete(entry.example):
            topic = entry.stream(entry.example).topic
            if topic.kind not in kinds and topic.kind != "status":
                kinds.add(topic.kind)
                found.append(topic)
    wanted.update(found)
    return found


def _tap(recorder: Recorder, name: str, account: str | None, number: int, connection: ProviderSession) -> Any:
    return recorder.tap(TappedSession(name, account, number, connection.mask))


@asynccontextmanager
async def _recording(recorder: Recorder, on: bool) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        if on:
            nursery.start_soon(recorder.run)
        yield
        nursery.cancel_scope.cancel()


def _no_log(level: str, event: str, **fields: object) -> None:
    """Log nothing: the report has it."""


def shown(value: Any, mask: Callable[[str], str]) -> Any:
    """Return JSON values without the secrets of a session, and without what only its name gives away."""
    return json.loads(masked_text(json.dumps(value, ensure_ascii=False), mask))
