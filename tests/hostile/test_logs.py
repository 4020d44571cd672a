"""The log cannot stop the relay, and nobody can flood it: child processes with a standard error that cannot be written to."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
import trio

from relay.cli.logs import LogWriter, configure_logs
from relay.limits import LineSampler
from relay.settings import LogTable
from support.deadlines import WITHIN

CONFIGURATION = """
allow_inline_secrets = true
[server]
listen = "127.0.0.1:0"
status_public = true
[apps.main]
id = "7"
key = "app-key"
secret = "app-secret-of-the-test"
[log]
format = "json"
repeats = 0
"""
#: A relay with one plugin, whose service logs numbered lines and then prints the port.
CHILD = """
    import sys
    from pathlib import Path

    import structlog
    import trio

    from relay.cli.command_line import run
    from relay.plugins.hookspecs import Service
    from relay.plugins import hookimpl
    from relay.plugins.manager import load_plugins

    LINES, SIZE = int(sys.argv[2]), 400

    class Noise:
        @hookimpl
        def relay_services(self):
            return [Service("noise", self.run)]

        async def run(self, relay):
            for number in range(LINES):
                structlog.get_logger().info("noise", number=number, filling="x" * SIZE)
                if number in (0, LINES - 1):
                    sys.stderr.write("written by a plugin\\n")
            print(relay.addresses[0][1], flush=True)
            await trio.sleep_forever()

    plugins = load_plugins()
    plugins.manager.register(Noise(), "noise")
    sys.exit(run(["serve", "-c", sys.argv[1]], plugins))
"""


#: More lines than the queue of a log takes.
LINES = 6000


@asynccontextmanager
async def child(
    folder: Path, stderr: int | None, lines: int = LINES, *before: str
) -> AsyncIterator[tuple[trio.Process, int]]:
    """Run a relay with this standard error; go on when it serves, and kill it at the end."""
    configuration, program = folder / "tickrelay.toml", folder / "child.py"
    configuration.write_text(CONFIGURATION)
    program.write_text(textwrap.dedent(CHILD))
    process = await trio.lowlevel.open_process(
        [*before, sys.executable, str(program), str(configuration), str(lines)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
    )
    output = process.stdout
    assert output is not None
    try:
        with trio.fail_after(WITHIN):
            line = b""
            while not line.endswith(b"\n"):
                data = await output.receive_some()
                assert data, f"the relay ended with {await process.wait()}"
                line += data
        yield process, int(line)
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            await output.aclose()


async def metric(port: int, name: str) -> float:
    async with httpx.AsyncClient() as http:
        text = (await http.get(f"http://127.0.0.1:{port}/metrics", timeout=WITHIN)).text
    found = re.search(rf"^{name}(?:_total)? (\S+)$", text, re.MULTILINE)
    assert found, text
    return float(found[1])


async def ends_well(process: trio.Process) -> None:
    process.send_signal(signal.SIGTERM)
    with trio.fail_after(WITHIN):
        assert await process.wait() == 0


async def test_a_full_volume_does_not_stop_it(tmp_path: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        async with child(tmp_path, full) as (process, port):
            assert await metric(port, "tickrelay_log_lines_lost") > 0
            await ends_well(process)
    finally:
        os.close(full)


async def test_a_closed_pipe_does_not_stop_it(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        async with child(tmp_path, write) as (process, port):
            assert await metric(port, "tickrelay_log_lines_lost") > 0
            await ends_well(process)
    finally:
        os.close(write)


async def test_a_pipe_that_nobody_reads_does_not_stop_it(tmp_path: Path) -> None:
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    try:
        async with child(tmp_path, write) as (process, port):
            for _ in range(50):
                assert await metric(port, "tickrelay_log_lines_lost") > 0
            await ends_well(process)
    finally:
        os.close(write)
        os.close(read)


async def test_without_a_standard_error_it_runs_too(tmp_path: Path) -> None:
    async with child(tmp_path, None, 20, "/bin/sh", "-c", 'exec "$@" 2>&-', "sh") as (process, port):
        assert await metric(port, "tickrelay_log_lines_lost") == 0
        await ends_well(process)


async def test_what_is_lost_is_counted_at_its_place(tmp_path: Path) -> None:
    """Nobody reads while lines are written; then somebody does. What is there and what is counted is everything."""
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    text = bytearray()

    def drain(until: bytes | None) -> None:
        while (until is None or until not in text) and (data := os.read(read, 65536)):
            text.extend(data)

    try:
        async with child(tmp_path, write) as (process, port):
            os.close(write)
            write = -1
            lost = await metric(port, "tickrelay_log_lines_lost")
            with trio.fail_after(WITHIN):
                await trio.to_thread.run_sync(drain, b" log lines lost", abandon_on_cancel=True)
            await ends_well(process)
            await trio.to_thread.run_sync(drain, None)
    finally:
        if write >= 0:
            os.close(write)
        os.close(read)
    lines = text.decode().splitlines()
    told = [json.loads(line)["lines"] for line in lines if "log lines lost" in line]
    noise = [line for line in lines if '"noise"' in line or line == "written by a plugin"]
    assert sum(told) >= lost > 0
    assert len(noise) + sum(told) == LINES + 2
    assert any('"shutting down"' in line for line in lines)


# --- the writer ------------------------------------------------------------------------------------------------------


class Volume:
    """A place to write to that is full until it is not."""

    def __init__(self) -> None:
        self.full = True
        self.tried = threading.Event()
        self.text = b""

    def write(self, data: bytes) -> int:
        if self.full:
            self.tried.set()
            raise OSError(28, "No space left on device")
        self.text += data[:7]  # a write may take a part only
        return len(data[:7])


def test_lines_wait_for_room_and_those_beyond_the_bound_are_counted() -> None:
    volume = Volume()
    writer = LogWriter(volume.write, most=40)
    for number in range(10):
        writer.write(f"line {number}\n")
    assert writer.lost == 5
    writer.start()
    assert volume.tried.wait(WITHIN)
    writer.write("the last\n")
    volume.full = False
    assert writer.close(60)
    assert volume.text.decode().splitlines() == [*(f"line {n}" for n in range(5)), "5 log lines lost", "the last"]


def test_closing_waits_for_a_bounded_time() -> None:
    never = threading.Event()

    def blocks(data: bytes) -> int:
        never.wait(2 * WITHIN)
        return len(data)

    writer = LogWriter(blocks)
    writer.start()
    writer.write("a line\n")
    assert not writer.close(0.05)
    never.set()


# --- repeated lines --------------------------------------------------------------------------------------------------


def test_of_a_kind_a_few_lines_are_written_and_the_rest_is_counted() -> None:
    sampler = LineSampler(3, period=60)
    assert [sampler.admits("a", float(now)) for now in range(10)] == [True] * 3 + [False] * 7
    assert sampler.admits("b", 10.0)
    assert sampler.take_withheld(59.9) == []
    assert sampler.take_withheld(60.0) == [("a", 7)]
    assert sampler.admits("a", 61.0)
    assert sampler.take_withheld() == []
    assert sampler.withheld == 7


def test_many_kinds_are_forgotten_but_not_their_counts() -> None:
    sampler = LineSampler(1, kinds=10)
    for number in range(100):
        assert sampler.admits(number, 0.0)
        assert not sampler.admits(number, 0.0)
    taken = dict(sampler.take_withheld())
    assert taken[None] == 90
    assert sum(taken.values()) == sampler.withheld == 100


@pytest.fixture
def lines() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Log to memory; call it to end the log and get its lines."""
    text: list[str] = []
    writer = LogWriter(lambda data: text.append(data.decode()) or len(data))
    writer.start()
    configure_logs(LogTable(format="json", repeats=5), ["s3cret-value"], writer)

    def ended() -> list[dict[str, Any]]:
        assert writer.close(60)
        return [json.loads(line) for line in "".join(text).splitlines()]

    yield ended
    structlog.reset_defaults()


def test_a_flood_is_a_few_lines_and_their_count(lines: Callable[[], list[dict[str, Any]]]) -> None:
    log = structlog.get_logger()
    for number in range(9719):
        log.warning("unknown_message", provider="acme", raw=f"message {number}")
    log.warning("unknown_message", provider="other", raw="one")
    shown = lines()
    assert [line.get("raw") for line in shown[:6]] == [*(f"message {n}" for n in range(5)), "one"]
    assert shown[6:] == [
        {"event": "repeated log lines", "of": "unknown_message", "provider": "acme", "lines": 9714, "level": "warning"}
        | {"timestamp": shown[6]["timestamp"]}
    ]


def test_what_a_stranger_sent_is_quoted_and_shortened(lines: Callable[[], list[dict[str, Any]]]) -> None:
    log = structlog.get_logger()
    log.info("bad request", target="/\x1b[2J\r\nfake line\x9b31m\u202e", raw="x" * 10_000, names=["y"] * 1000)
    log.info("bad request", raw=b"\x00" * 1000, **{"a\nb": {"c\x1b": ["\x07"]}})
    log.info("cut", text="x" * 495 + "s3cret-value")
    first, second, third = lines()
    assert first["target"] == r"/\x1b[2J\r\nfake line\x9b31m\u202e"
    assert (first["raw"][:3], len(first["raw"]) < 600, first["raw"][-18:]) == ("xxx", True, "(10000 characters)")
    assert (len(first["names"]), first["names"][-1]) == (51, "... 950 more")
    assert len(second["raw"]) < 600
    assert second[r"a\nb"] == {r"c\x1b": [r"\x07"]}
    assert "s3cr" not in third["text"]


def test_a_traceback_is_bounded_and_looks_like_no_line_of_the_log() -> None:
    text: list[str] = []
    writer = LogWriter(lambda data: text.append(data.decode()) or len(data))
    writer.start()
    configure_logs(LogTable(format="console"), (), writer)
    try:
        raise ValueError("\x1b[2J\n2026-01-01 [info] nothing happened" + "z" * 100_000)
    except ValueError:
        structlog.get_logger().exception("failed")
    assert writer.close(60)
    structlog.reset_defaults()
    whole = "".join(text)
    assert "\x1b[2J" not in whole
    assert not any(line.startswith("2026-01-01 [info] nothing") for line in whole.splitlines())
    assert len(whole) < 10_000


def test_credentials_of_a_url_are_hidden(lines: Callable[[], list[dict[str, Any]]]) -> None:
    structlog.get_logger().warning(
        "dial wss://u:pa55@host/ws", url="https://me:pa55w@rd@host:1/x?y=@", nested=["ftp://pa55@h"]
    )
    (line,) = lines()
    assert "pa55" not in json.dumps(line)
    assert line["url"] == "https://[redacted]@host:1/x?y=@"
