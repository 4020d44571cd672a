"""cryptofeed's own handlers on the same recordings."""

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from support.environments import python_with
from support.processes import CLIENT_CORE, HERE, Unavailable
from support.report import median

EXCHANGES = {
    "BINANCE_US": "binance_us", "BINANCE_FUTURES": "binance_futures", "BITFINEX": "bitfinex", "BITSTAMP": "bitstamp",
    "COINBASE": "coinbase", "DERIBIT": "deribit", "GATEIO": "gateio", "KRAKEN": "kraken", "KRAKEN_FUTURES": "kraken_futures",
    "KUCOIN": "kucoin", "OKX": "okx", "UPBIT": "upbit",
}  # fmt: skip
PLAYER = HERE / "peers" / "cryptofeed_player.py"


def measure(recordings: Path, passes: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Return one row per exchange whose recording is there, and why cryptofeed cannot play one."""
    found = {name: recordings / f"{file}.jsonl" for name, file in EXCHANGES.items()}
    if not any(path.is_file() for path in found.values()):
        raise Unavailable(f"there are no recordings in {recordings}")
    python = python_with("cryptofeed")
    rows, notes = [], []
    for name, path in found.items():
        if path.is_file():
            try:
                rows.append(_row(python, name, path, passes))
            except Unavailable as unplayable:
                notes.append(f"cryptofeed cannot play {unplayable}")
    return rows, notes


def _row(python: Path, exchange: str, path: Path, passes: int) -> dict[str, Any]:
    played = subprocess.run(
        [python, PLAYER, exchange, path.resolve(), str(passes)],
        capture_output=True,
        text=True,
        cwd=tempfile.gettempdir(),  # it writes a log where it is run
        preexec_fn=lambda: os.sched_setaffinity(0, {CLIENT_CORE}),
        timeout=120,
        check=False,
    )
    if played.returncode:
        raise Unavailable(f"{exchange}: {played.stderr.strip().splitlines()[-1:]}")
    lines = [line.split() for line in played.stdout.splitlines()]
    messages, events = int(lines[-1][0]), int(lines[-1][1])
    took = median([float(line[2]) for line in lines]) * 1e6
    return {
        "adapter": f"cryptofeed {exchange}",
        "session": "recording",
        "messages": messages,
        "events": events,
        "decode us/message": took / messages,
        "decode us/event": took / events,
        "events/s": round(events / took * 1e6),
    }
