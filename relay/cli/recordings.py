"""Recordings on the command line: ``tickrelay play`` and ``tickrelay try``, and the report that probes give, too."""

import importlib
import json
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import trio
from cyclopts import Parameter

from relay.adapter import Adapter
from relay.cli.command_line import listen_argument, listening_on, until_stopped
from relay.errors import OperatorError, suggestion
from relay.plugins.manager import Plugins, load_plugins
from relay.testing.conformance import golden as golden_lines
from relay.testing.player import Player
from relay.testing.recording import FramePair, RecordingError, beside, read_recording
from relay.testing.subject import subject
from relay.testing.trial import Report, delays, topic_text, trial

#: Characters of a frame or a sample on a line, and lines of a list.
_WIDE, _LONG = 160, 20


async def play(
    file: Path,
    /,
    *,
    listen: str = "127.0.0.1:6010",
    speed: float = 1.0,
    start: Literal["connect", "subscribe"] = "subscribe",
    acks: Annotated[bool, Parameter(negative=())] = False,
    once: Annotated[bool, Parameter(negative=())] = False,
    loop: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Serve a recorded provider session as the provider itself.

    At the end the frames that clients sent are compared with the recorded ones.

    Args:
        file: The recording, JSON lines, compressed or not.
        listen: HOST:PORT; port 0 lets the kernel choose.
        speed: 1 as recorded, 10 ten times as fast, 0 as fast as the client reads.
        start: When the frames begin: at once, or after the client subscribed.
        acks: Let the client set the pace: each frame that it sent in the recording is waited for.
        once: End when the recording was played to the end once.
        loop: Start again at the end, until Ctrl-C.
    """

    host, port = listen_argument(listen)
    if once and loop:
        raise OperatorError("--once and --loop contradict each other")
    try:
        recording = read_recording(file)
        player = Player(recording, speed=speed, start=start, quiet=0.5, close=once, reply=None, acks=acks, loop=loop)
    except OSError as error:
        raise OperatorError(f"cannot read {file}: {error.strerror or error}") from error
    except (RecordingError, ValueError) as error:
        raise OperatorError(str(error)) from error
    with listening_on(host, port):
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(player.serve, host=host, port=port))
            print(f"playing {file} at {player.ws_url} and {player.http_url}", flush=True)
            nursery.start_soon(_show_progress, player, len(recording.incoming))
            if once:
                nursery.start_soon(_end_with, player.finished, nursery.cancel_scope)
            await until_stopped()
            nursery.cancel_scope.cancel()
    recorded = [each.data for each in recording.records if each.dir == "out" and isinstance(each.data, str)]
    for line in frame_lines(beside(recorded, [each for each in player.received if isinstance(each, str)])):
        print(line)


def try_adapter(
    adapter: str,
    file: Path,
    /,
    *,
    option: Annotated[tuple[str, ...], Parameter(consume_multiple=False, negative=())] = (),
    golden: Path | None = None,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> int:
    """Run an adapter on a recording, without sockets, and report its events, unknown messages and losses.

    The exit code is 1 if there is a problem: a message that was not understood, a gap, a wrong checksum, a crossed book.

    Args:
        adapter: The adapter's name, or package.module:Class.
        file: The recording.
        option: An option of the adapter, NAME=VALUE; may be given several times.
        golden: Write the events as canonical JSON lines to this file, to be reviewed and compared by tests.
        as_json: Print the report as JSON.
    """

    options = {name: value for name, _, value in (each.partition("=") for each in option)}
    try:
        tried = subject(adapter_named(adapter, load_plugins()), file, options=options)
        report = trial(tried)
        lines = [] if golden is None else list(golden_lines(tried))
    except OSError as error:
        raise OperatorError(f"cannot read {file}: {error.strerror or error}") from error
    except RecordingError as error:
        raise OperatorError(str(error)) from error
    except ValueError as error:
        raise OperatorError(f"--option: {error}") from error
    if golden is not None:
        write_text(golden, "".join(f"{line}\n" for line in lines))
    print(json.dumps(report.as_json(), indent=1) if as_json else "\n".join(report_lines(report)))
    return 1 if report.problems else 0


def report_lines(report: Report, *, seconds: float | None = None) -> Iterator[str]:
    """Yield a report line by line; with ``seconds`` events also have a rate."""
    yield f"{report.messages} messages and answers"
    yield from _counts("events", report.events, seconds)
    if report.published != report.events:
        yield from _counts("published", report.published, seconds)
    yield from _counts("signals", report.signals)
    yield from _counts("of the session", report.raised)
    if report.topics:
        yield f"streams: {len(report.topics)}, acknowledged {len(report.acknowledged & set(report.topics))}"
        silent = [topic_text(topic) for topic in report.topics if topic.kind not in _kinds(report)]
        yield from _listed("kinds of streams without any event", silent)
    yield from _listed("refused", [f"{topic_text(topic)}: {why}" for topic, why in report.refused.items()])
    yield f"not understood: {report.unknown}"
    for each in report.samples:
        yield f"  {each.where} {each.what}" + (f" (at {each.code})" if each.code else "")
        yield f"    {each.sample[:_WIDE]}"
    yield from _listed("values that no event has", [f"{place} = {value!r:.60}" for place, value in report.lost.items()])
    yield from _listed("gaps", report.gaps)
    yield from _counts("checksums", report.checksums)
    yield from _counts("crossed", report.crossed)
    yield from _counts("deltas not published", report.dropped)
    yield from _counts("errors of the provider", report.errors)
    yield from _counts("limits", report.limits)
    if told := delays(report.delays):
        yield "from an event's own time to its receipt: " + ", ".join(f"{name} {each} s" for name, each in told.items())
    yield from _listed("requests without a recorded answer", report.not_recorded)
    yield from frame_lines(report.frames)
    yield "problems: " + ("; ".join(report.problems) or "none")


def frame_lines(pairs: list[FramePair]) -> Iterator[str]:
    """Yield the frames that are not as they were recorded; of the others, their number."""
    if not pairs:
        return
    yield f"frames written as recorded: {sum(pair.same for pair in pairs)} of {len(pairs)}"
    for pair in [pair for pair in pairs if not pair.same][:_LONG]:
        why = f"differs in {', '.join(pair.differs)}" if pair.differs else "only in the recording"
        yield f"  {why if pair.recorded is not None else 'not in the recording'}:"
        yield from (f"    {sign} {text[:_WIDE]}" for sign, text in (("-", pair.recorded), ("+", pair.sent)) if text)


def _kinds(report: Report) -> set[str]:
    account = (
        {"account"} if any(kind in report.published for kind in ("order", "position", "trade", "account")) else set()
    )
    return set(report.published) | account


def _counts(title: str, counts: Mapping[str, int], seconds: float | None = None) -> Iterator[str]:
    if counts:
        told = [
            f"{name} {count}" + (f" ({count / seconds:.2f}/s)" if seconds else "") for name, count in counts.items()
        ]
        yield f"{title}: " + ", ".join(sorted(told))


def _listed(title: str, lines: list[str]) -> Iterator[str]:
    if lines:
        yield f"{title}: {len(lines)}"
        yield from (f"  {line[:_WIDE]}" for line in lines[:_LONG])
        if len(lines) > _LONG:
            yield f"  and {len(lines) - _LONG} more; --json has all"


def write_text(path: Path, text: str) -> None:
    """Write a file, replacing it. Raises OperatorError if it cannot be written."""
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise OperatorError(f"cannot write {path}: {error.strerror or error}") from error


def adapter_named(name: str, plugins: Plugins) -> type[Adapter]:
    """Return the adapter of a plugin, or the class that ``package.module:Class`` names.

    Raises:
        OperatorError: there is none.
    """
    module, _, attribute = name.partition(":")
    if not attribute:
        adapters = plugins.adapters()
        if name not in adapters:
            raise OperatorError(f"no adapter is named {name}; {suggestion(name, adapters)}")
        return adapters[name]
    sys.path.insert(0, "")  # as `python -m` does: an author tries what is in the directory
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise OperatorError(f"{name}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Adapter)):
        raise OperatorError(f"{name} is not an adapter")
    return found


async def _end_with(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def _show_progress(player: Player, frames: int) -> None:
    """Show the progress every second, if standard error is a terminal."""
    told = ""
    while sys.stderr.isatty():
        await trio.sleep(1)
        text = f"{player.connections} connections, {player.played} frames written, {frames} are recorded"
        if text != told:
            print(f"\r{text}", end="", file=sys.stderr, flush=True)
            told = text
