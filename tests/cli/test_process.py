"""The installed command as a process: real exit codes, real signals."""

import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import trio
from trio_websocket import open_websocket_url

from relay import __version__
from support.deadlines import WITHIN


def tickrelay(*tokens: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "relay", *tokens], capture_output=True, text=True, timeout=WITHIN, check=False
    )


def test_version() -> None:
    done = tickrelay("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"tickrelay {__version__}\n", "")


def test_a_stated_problem_exits_1() -> None:
    done = tickrelay("check", "/no/such.toml")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "tickrelay: cannot read /no/such.toml: No such file or directory\n"


def test_wrong_use_exits_2() -> None:
    assert tickrelay("check", "--frobnicate").returncode == 2


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
async def test_play_serves_the_recording_until_it_is_stopped(tmp_path: Path, stop: signal.Signals) -> None:
    path = tmp_path / "session.jsonl"
    records = [{"t": 1.0, "dir": "open", "url": "wss://venue.example/ws"}, {"t": 1.0, "dir": "in", "data": "hello"}]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    command = [sys.executable, "-m", "relay", "play", str(path), "--listen", "127.0.0.1:0", "--start", "connect"]
    async with trio.open_nursery() as nursery:
        process = await nursery.start(partial(trio.run_process, command, stdout=subprocess.PIPE, check=False))
        with trio.fail_after(WITHIN):
            line = (await process.stdout.receive_some()).decode()
            url = line.split(" at ")[1].split()[0]
            async with open_websocket_url(f"{url}/ws") as socket:
                assert await socket.get_message() == "hello"
            process.send_signal(stop)
            assert await process.wait() == 0
