"""Commands on providers and recordings: record, probe, export and cut. The command line finds them by name."""

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import trio
from cyclopts import Parameter

from relay.cli.command_line import read_settings
from relay.cli.recordings import adapter_named, report_lines
from relay.errors import OperatorError, leaves, suggestion
from relay.model.channels import ChannelError, Topic
from relay.plugins.manager import load_plugins
from relay.settings import ProviderSettings, settings_of
from relay.testing.recording import Record, RecordingError, read_recording, write_recording
from relay_recorder import export as exporting
from relay_recorder.export import Chosen, Format

_DEFAULT = Path("tickrelay.toml")
_Seconds = Annotated[float, Parameter(name="--for")]
_Config = Annotated[Path, Parameter(alias="-c")]
_Several = Parameter(consume_multiple=False, negative=())


async def record(
    provider: str,
    /,
    *,
    out: Path,
    seconds: _Seconds = 60.0,
    account: str | None = None,
    stream: Annotated[tuple[str, ...], _Several] = (),
    events: Path | None = None,
    simulated: Annotated[bool, Parameter(negative=())] = False,
    config: _Config = _DEFAULT,
) -> int:
    """Record what a provider sends and receives, without a relay around it. Nothing is ever ordered.

    A running relay records by its configuration: see plugins.recorder.

    Args:
        provider: A provider of the configuration; without one, the name of an adapter that needs no credentials.
        out: The file; .zst and .gz are compressed.
        seconds: How long; Ctrl-C ends it sooner.
        account: Which of several accounts.
        stream: What is subscribed, as in pinned ("quote BTC/USD"); may be given several times. When absent, what is pinned
            and an example of everything else that is offered.
        events: Record the events, too, in this SQLite file.
        simulated: Record the plugin's own simulator instead, which the demo runs; at a broker orders are placed there.
        config: The configuration.
    """
    from relay_recorder.live import run_provider

    if simulated:
        records = await _simulated(provider, seconds)
        write_recording(out, records)
        print(f"{out}: {sum(each.dir == 'in' for each in records)} messages of the simulator")
        return 0
    settings = _provider(provider, config, stream)
    topics = settings.pinned if stream else ()
    async with _stoppable() as stopped:
        probe = await run_provider(
            settings, seconds, account=account, topics=topics, frames=out, events=events, loses=False, stopped=stopped,
            progress=_say,
        )  # fmt: skip
    counts = ", ".join(f"{kind} {count}" for kind, count in sorted(probe.report.published.items())) or "no events"
    print(f"{out}: {probe.report.messages} messages in {probe.seconds:g} s: {counts}")
    return 0 if probe.connected is not None else 1


async def _simulated(provider: str, seconds: float) -> list[Record]:
    """Return a recorded session with the simulator of a plugin. Raises OperatorError when there is none."""
    from relay.testing.fault_table import case_of
    from relay.testing.sessions import Failed, recorded

    plugins = load_plugins()
    found = {item.value.provider: item.value for item in plugins.collect("relay_simulators")}
    if provider not in found:
        raise OperatorError(f"no plugin has a simulator of {provider}; {suggestion(provider, found)}")
    try:
        case = case_of(plugins.adapters()[found[provider].adapter], found[provider])
    except ValueError as error:
        raise OperatorError(f"{provider}: {error}") from error
    records: list[Record] = []
    try:
        records = await recorded(case, seconds)
    except* Failed as group:
        raise OperatorError(str(leaves(group)[0]).splitlines()) from None
    return records


async def probe(
    provider: str,
    /,
    *,
    seconds: _Seconds = 60.0,
    account: str | None = None,
    record: Path | None = None,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
    config: _Config = _DEFAULT,
) -> int:
    """Connect to a provider, subscribe to an example of everything it offers, and report what came. Nothing is ever ordered.

    The exit code is 1 if something is wrong: not connected, not understood, a gap, a checksum that differs, a crossed book.

    Args:
        provider: A provider of the configuration; without one, the name of an adapter that needs no credentials.
        seconds: How long; Ctrl-C ends it sooner.
        account: Which of several accounts.
        record: Record the traffic, without secrets, in this file.
        as_json: Print the report as JSON.
        config: The configuration.
    """
    from relay.testing.trial import delays
    from relay_recorder.live import run_provider, shown

    settings = _provider(provider, config, ())
    async with _stoppable() as stopped:
        found = await run_provider(settings, seconds, account=account, frames=record, stopped=stopped, progress=_say)
    about: dict[str, Any] = {
        "provider": found.provider,
        "adapter": settings.adapter.name,
        "state": found.status.get("state"),
        "reason": found.status.get("reason"),
        "seconds": found.seconds,
        "connected_after": found.connected,
        "first_data_after": found.first_data,
        "no_data": found.quiet,
        "budget": found.status.get("budget"),
        "http_round_trip_seconds": delays(found.round_trips),
        "clock_ahead_seconds": delays(found.clock),
    }
    problems = found.problems
    if as_json:
        rates = {kind: round(count / found.seconds, 3) for kind, count in found.report.published.items()}
        whole = {**about, "events_per_second": rates, **found.report.as_json(), "problems": problems}
        print(json.dumps(shown(whole, found.mask), indent=1))
        return 1 if problems else 0
    lines = [
        f"{name.replace('_', ' ')}: {_plain(value)}" for name, value in about.items() if value not in (None, {}, [], "")
    ]
    lines += [line for line in report_lines(found.report, seconds=found.seconds) if not line.startswith("problems: ")]
    lines.append("problems: " + ("; ".join(problems) or "none"))
    print("\n".join(shown(lines, found.mask)))
    return 1 if problems else 0


def export(
    source: Path,
    /,
    *,
    to: Format,
    out: Path,
    kind: Annotated[tuple[str, ...], _Several] = (),
    provider: str | None = None,
    symbol: str | None = None,
    since: str | None = None,
    until: str | None = None,
    adapter: str | None = None,
    option: Annotated[tuple[str, ...], _Several] = (),
) -> None:
    """Export recorded events as JSON lines, CSV or Parquet. Prices and times are text, never floats.

    Args:
        source: A SQLite file of events, a directory of them, or a recording of traffic (with --adapter).
        to: The format.
        out: The file of JSON lines, or the directory of the tables, which gets a file for each kind of event.
        kind: Only this kind of event; may be given several times.
        provider: Only this provider.
        symbol: Only this symbol.
        since: Only what was received from this time on, RFC 3339.
        until: Only what was received before this time.
        adapter: The adapter that reads a recording of traffic, as in tickrelay try.
        option: An option of the adapter, NAME=VALUE; may be given several times.
    """
    from relay.model.events import KINDS

    for each in kind:
        if each not in KINDS:
            raise OperatorError(f"--kind: there is no {each}; {suggestion(each, KINDS)}")
    chosen = Chosen(
        kinds=kind, provider=provider, symbol=symbol, since=_time("--since", since), until=_time("--until", until)
    )
    files = exporting.event_files(source)
    if files:
        lines = exporting.stored(files, chosen)
    elif adapter is None:
        raise OperatorError(f"{source} is no file of events; a recording of traffic needs --adapter")
    else:
        options = {name: value for name, _, value in (each.partition("=") for each in option)}
        try:
            lines = iter(exporting.decoded(source, adapter_named(adapter, load_plugins()), options, chosen))
        except RecordingError as error:
            raise OperatorError(str(error)) from error
        except ValueError as error:
            raise OperatorError(f"--option: {error}") from error
    counts = exporting.write(lines, to, out)
    print(f"{out}: " + (", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "no events"))


def cut(file: Path, out: Path, /, *, since: str | None = None, until: str | None = None) -> None:
    """Cut a part out of a recording: a span of time, and before it the head of its connection, so that it can be played.

    Args:
        file: The recording.
        out: The file to write.
        since: RFC 3339, or seconds from the beginning of the recording.
        until: RFC 3339, or seconds from the beginning of the recording.
    """
    if out.exists():
        raise OperatorError(f"{out} is there already")
    try:
        records = read_recording(file).records
    except OSError as error:
        raise OperatorError(f"cannot read {file}: {error.strerror or error}") from error
    except RecordingError as error:
        raise OperatorError(str(error)) from error
    if not records:
        raise OperatorError(f"{file} is empty")
    first, last = (_moment(name, text, records[0].t) for name, text in (("--since", since), ("--until", until)))
    kept = list(_cut(records, float("-inf") if first is None else first, float("inf") if last is None else last))
    try:
        write_recording(out, kept)
    except OSError as error:
        raise OperatorError(f"cannot write {out}: {error.strerror or error}") from error
    print(f"{out}: {len(kept)} of {len(records)} records")


def _cut(records: tuple[Record, ...], since: float, until: float) -> Iterator[Record]:
    """Yield the records of a time, behind the head of the connection that was open when it began."""
    head: list[Record] = []
    for each in records:
        if each.t >= until:
            return
        if each.t >= since:
            yield from head
            head = []
            yield each
        elif each.dir == "close":
            head = []
        elif each.dir in ("open", "out", "http"):
            head.append(each)


def _moment(name: str, text: str | None, begin: float) -> float | None:
    if text is None:
        return None
    try:
        return begin + float(text)
    except ValueError:
        from relay.model.text import to_ns

        return to_ns(_time(name, text) or "") / 1e9


def _time(name: str, text: str | None) -> str | None:
    """Return a time as events have it, RFC 3339 in UTC with microseconds."""
    from relay.model.text import from_micros, rfc3339, to_ns

    if text is None:
        return None
    try:
        return from_micros(to_ns(rfc3339(text)) // 1000)
    except (ValueError, TypeError) as error:
        raise OperatorError(f"{name}: {error}; write it like 2026-01-31T14:02:00Z") from error


def _provider(name: str, config: Path, streams: tuple[str, ...]) -> ProviderSettings:
    """Return a provider of the configuration; where there is none, the adapter of that name as its public service.

    ``streams`` are in the place of its pinned ones.
    """
    plugins = load_plugins()
    if not config.exists() and config == _DEFAULT:
        plugins.check()
        adapters = plugins.adapters()
        if name not in adapters:
            raise OperatorError(f"there is no {config}, and no adapter is named {name}; {suggestion(name, adapters)}")
        tables = {"providers": {name: {"pinned": list(streams)}}}
        return settings_of(tables, Path("the command line"), {}, adapters, Path.read_text, demo=True).providers[0]
    found = {each.name: each for each in read_settings(config, plugins).providers}
    if name not in found:
        raise OperatorError(f"{config} has no provider {name}; {suggestion(name, found)}")
    settings = found[name]
    return settings if not streams else _with_streams(settings, streams)


def _with_streams(settings: ProviderSettings, streams: tuple[str, ...]) -> ProviderSettings:
    from attrs import evolve

    from relay.settings.providers import stream_of

    try:
        topics: tuple[Topic, ...] = tuple(stream_of(text, settings) for text in streams)
    except (ChannelError, ValueError) as error:
        raise OperatorError(f"--stream: {error}") from error
    return evolve(settings, pinned=topics)


@asynccontextmanager
async def _stoppable() -> Any:
    """Yield an event that is set by SIGINT or SIGTERM."""
    stopped = trio.Event()

    async def listen(task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for _ in signals:
                stopped.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(listen)
        yield stopped
        nursery.cancel_scope.cancel()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
