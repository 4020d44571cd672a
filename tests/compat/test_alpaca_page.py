"""docs/alpaca.md: every command of it, in its order, with the simulator in Alpaca's place."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from relay_alpaca.simulator import KEY, SECRET, AlpacaSimulator
from support.deadlines import WITHIN
from support.process import serving

PAGE = (Path(__file__).parents[2] / "docs" / "alpaca.md").read_text("utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE, re.S)
(CONFIGURATION,) = re.findall(r"```toml\n(.*?)```", PAGE, re.S)
#: Words that a command prints.
PRINTS = {
    "check": "is fine",
    "status": "alpaca",
    "tail": "BTC",
    "place": "accepted",
    "accounts": "AAPL",
    "cancel": "accepted",
}


def environment(directory: Path, exports: str) -> dict[str, str]:
    """Return the environment that the first block makes, with `tickrelay` on its path."""
    shim = directory / "bin" / "tickrelay"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m relay "$@"\n')
    shim.chmod(0o755)
    path = f"{shim.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    exports = exports.replace('"PK..."', f'"{KEY}"').replace('"..."', f'"{SECRET}"')
    said = subprocess.run(
        ["bash", "-c", f"{exports}\nenv -0"],
        env={"PATH": path},
        capture_output=True,
        check=True,
        text=True,
        timeout=WITHIN,
    ).stdout
    return dict(line.split("=", 1) for line in said.split("\0") if "=" in line)


async def ran(command: str, directory: Path, env: dict[str, str]) -> str:
    """Run a block as a shell does; return what it printed."""
    with trio.fail_after(WITHIN):
        done = await trio.run_process(
            ["bash", "-ec", command], cwd=directory, env=env, capture_stdout=True, capture_stderr=True, check=False
        )
    said = done.stdout.decode() + done.stderr.decode()
    assert done.returncode == 0, f"{command}{said}"
    return said


@pytest.mark.parametrize("feed", ["iex"])
async def test_every_command_of_the_page_does_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, feed: str
) -> None:
    exports, *commands = BLOCKS
    env = environment(tmp_path, exports)
    for name in ("ALPACA_KEY_ID", "ALPACA_SECRET_KEY", "TICKRELAY_API_KEY", "TICKRELAY_APP_SECRET"):
        monkeypatch.setenv(name, env[name])
    (tmp_path / "tickrelay.toml").write_text(CONFIGURATION)
    async with AlpacaSimulator(interval=0.05, requests_per_minute=None).serve() as at:
        table = f'[providers.alpaca]\nurl = "{at.ws}"\nhttp_url = "{at.http}"'
        configuration = CONFIGURATION.replace("[providers.alpaca]", table, 1).replace(
            "127.0.0.1:6001", "127.0.0.1:{port}"
        )
        relay_at = tmp_path / "relay"
        relay_at.mkdir()
        ran_ones = []
        assert "PK..." in exports
        before = commands[: commands.index("tickrelay serve\n")]
        for command in before:
            assert PRINTS[command.split()[1]] in await ran(command, tmp_path, env)
            ran_ones.append(command)
        async with serving(relay_at, configuration) as (_, port):
            env["TICKRELAY_URL"] = f"http://127.0.0.1:{port}"
            for command in commands[len(before) + 1 :]:
                words = command.split()
                said = await ran(command, tmp_path, env)
                assert PRINTS[words[2] if words[1] == "order" else words[1]] in said, f"{command}{said}"
                if "--limit" in command:
                    env["ORDER_ID"] = re.findall(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}", said)[0]
                ran_ones.append(command)
    assert len(ran_ones) == len(commands) - 1, "all but `serve`, which the test itself runs"
