"""The commands of the recorder: an incident becomes a fixture, a provider is probed, events are exported."""

import csv
import json
import os
import re
import signal
import tomllib
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import trio
import trio.testing

from relay.adapter import Adapter, Context
from relay.cli import recordings, run
from relay.model.commands import PlaceOrder
from relay.model.enums import OrderType, Side
from relay.model.events import Depth, Quote, Stamp
from relay.plugins.manager import load_plugins
from relay.settings import AccountSettings, ProviderSettings, ReplayTable
from relay.testing.player import play
from relay.testing.recording import Record, Recording, RecordingError, read_recording
from relay_helio.adapter import Helio
from relay_helio.simulator import PASSWORD
from relay_kraken.adapter import Kraken
from relay_recorder import command
from relay_recorder.live import run_provider, shown, without_commands
from relay_recorder.recorder import Recorder
from relay_recorder.table import RecorderTable
from support.deadlines import WITHIN

#: A ticker of Kraken with a bid above the ask.
CROSSED = """[340,{"a":["36101.00000",3,"3.00000000"],"b":["99999999.0",0,"0.40000000"],
"c":["36100.20000","0.10000000"],"v":["812.50000000","1999.12345678"],"p":["36050.10000","36010.20000"],
"t":[9001,20002],"l":["35900.00000","35800.00000"],"h":["36200.00000","36300.00000"],"o":["36000.00000","35950.00000"]},"ticker","XBT/USD"]"""
FIXTURE = Path(__file__).parents[1] / "fixtures" / "kraken.jsonl"


async def reached(path: Path, text: str) -> None:
    """Wait until a recording that is being written has a text."""
    with trio.fail_after(WITHIN):
        while True:
            await trio.sleep(0.05)
            with suppress(FileNotFoundError, RecordingError):  # its last bytes may be half written
                if any(text in str(each.data) for each in read_recording(path).records):
                    return


def configured(url: str, http_url: str) -> None:
    Path("secret").write_text("a-secret-of-an-app")
    Path("tickrelay.toml").write_text(f"""
[providers.kraken]
url = "{url}"
http_url = "{http_url}"
pinned = ["quote BTC/USD"]
[apps.main]
id = 1
key = "k"
secret = {{ file = "secret" }}
""")


def types_in(path: Path) -> set[str]:
    return {json.loads(line)["type"] for line in path.read_text().splitlines()}


async def test_a_field_incident_becomes_a_fixture_in_five_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As docs/recording.md has it: record, try, cut, try with a golden file, play."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("relay_recorder.recorder.FLUSH", 0.0)
    last = read_recording(FIXTURE).incoming[-1]
    async with play(FIXTURE, start="subscribe", quiet=0.05) as player, trio.open_nursery() as nursery:
        configured(player.ws_url, player.http_url)

        async def stop() -> None:
            await reached(Path("incident.jsonl.zst"), str(last.data))
            os.kill(os.getpid(), signal.SIGINT)

        nursery.start_soon(stop)
        assert await command.record("kraken", out=Path("incident.jsonl.zst"), seconds=60) == 0
    assert run(["try", "kraken", "incident.jsonl.zst"]) == 0
    assert run(["cut", "incident.jsonl.zst", "fixture.jsonl", "--since", "0", "--until", "3600"]) == 0
    assert run(["try", "kraken", "fixture.jsonl", "--golden", "golden.jsonl"]) == 0
    assert "quote" in types_in(Path("golden.jsonl"))
    capsys.readouterr()
    async with trio.open_nursery() as nursery:
        played = partial(recordings.play, Path("fixture.jsonl"), listen="127.0.0.1:0", speed=0, once=True)
        nursery.start_soon(played)
        told = ""
        with trio.fail_after(WITHIN):
            while " at ws://" not in told:
                await trio.sleep(0.02)
                told += capsys.readouterr().out
        url = told.split(" at ")[1].split()[0]
        settings = venue(Kraken, url, url.replace("ws:", "http:"))
        probe = await run_until(settings, trio.Event(), lambda seen: "quote" in seen.published)
    assert probe.report.unknown == 0
    assert "frames written as recorded" in capsys.readouterr().out


def venue(adapter: type[Adapter], url: str, http_url: str = "", **members: Any) -> ProviderSettings:
    return ProviderSettings(
        name="venue", adapter=adapter, url=url, http_url=http_url or None,
        **{"accounts": (AccountSettings(),), "options": adapter.defaults(), **members},
    )  # fmt: skip


async def run_until(settings: ProviderSettings, stopped: trio.Event, condition: Any, **options: Any) -> Any:
    """Run a provider until its lines of progress satisfy a condition."""
    found: list[str] = []
    results: list[Any] = []
    async with trio.open_nursery() as nursery:

        async def running() -> None:
            results.append(await run_provider(settings, 60, stopped=stopped, progress=found.append, **options))

        nursery.start_soon(running)
        with trio.fail_after(WITHIN):
            while not condition(_Seen(found)):
                await trio.sleep(0.02)
        stopped.set()
    return results[0]


class _Seen:
    """Tells what the lines of progress have said so far."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.published = {line.split()[2] for line in lines if ": first " in line}
        self.lines = list(lines)


async def test_a_probe_of_a_broker_reports_and_never_orders(tmp_path: Path) -> None:
    """A simulator with a login: what came by kind, acknowledgements, clocks; the password is in neither report nor file."""
    (simulated,) = [each.value for each in load_plugins().collect("relay_simulators") if each.value.adapter == "helio"]
    async with trio.open_nursery() as nursery:
        url, http_url = await nursery.start(simulated.run)
        account = AccountSettings(name=simulated.account, credentials=dict(simulated.credentials))
        settings = venue(Helio, url, http_url, accounts=(account,), options={**Helio.defaults(), **simulated.options})
        file = tmp_path / "probe.jsonl"
        probe = await run_until(
            settings, trio.Event(), lambda seen: {"quote", "depth", "account"} <= seen.published, frames=file
        )
        nursery.cancel_scope.cancel()
    assert probe.connected is not None
    assert probe.problems == []
    assert probe.round_trips
    assert probe.report.events["quote"] > 0
    assert probe.report.acknowledged
    text = json.dumps(shown(probe.report.as_json(), probe.mask))
    assert PASSWORD not in text + file.read_text()
    order = PlaceOrder(id="1", account="a", symbol="EUR/USD", side=Side.BUY, order_type=OrderType.MARKET, quantity="1")
    with pytest.raises(ValueError, match="nothing is ordered here"):
        list(without_commands(Helio)(Context(provider="x")).encode(order))


@pytest.mark.parametrize(
    ("frames", "problem"),
    [
        (['{"strange":1}'], "1 not understood"),
        ([CROSSED], "crossed"),
    ],
)
async def test_a_probe_names_the_faults_of_a_provider(frames: list[str], problem: str) -> None:
    """Served by a player: the exit code and the report are those of a fault."""
    records = tuple(Record(t=1.0, dir="in", data=each) for each in frames)
    answers = tuple(each for each in read_recording(FIXTURE).records if each.dir == "http")
    pairs = tuple(Record(t=0.0, dir="http", url=each.url, data=each.data) for each in answers)
    async with (
        play(Recording((*pairs, *records)), start="subscribe", quiet=0.05) as player,
        trio.open_nursery() as nursery,
    ):
        stopped = trio.Event()

        async def stop() -> None:
            await player.finished.wait()
            await trio.testing.wait_all_tasks_blocked(0.05)
            stopped.set()

        nursery.start_soon(stop)
        probe = await run_provider(venue(Kraken, player.ws_url, player.http_url), 60, stopped=stopped)
    assert any(problem in each for each in probe.problems), probe.problems


async def test_a_provider_that_cannot_be_reached_is_a_problem() -> None:
    probe = await run_until(
        venue(Kraken, "ws://127.0.0.1:1", "http://127.0.0.1:1"), trio.Event(), lambda seen: seen.lines
    )
    assert probe.connected is None
    assert any(each.startswith("the session was never up") for each in probe.problems)


@pytest.fixture
def events(tmp_path: Path) -> Path:
    """A file of three events, with a price that a float would spoil."""
    recorder = Recorder(RecorderTable(directory=str(tmp_path)), events=tmp_path / "events.sqlite")
    for second, event in enumerate(
        (Quote(symbol="A/B", bid="1.10000000000000000001"), Quote(symbol="C/D", bid="2"), Depth(symbol="A/B", bids=(("1.10", "2"),), asks=(), snapshot=True))
    ):  # fmt: skip
        recorder.take_event(event, Stamp(provider="p", received_at=f"2026-01-31T14:02:0{second}.000000Z"), str(second))
    recorder.write()
    recorder.close()
    return tmp_path / "events.sqlite"


def test_exports_keep_prices_as_they_were(events: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", str(events), "--to", "parquet", "--out", str(tmp_path / "parquet")]) == 0
    quotes = pyarrow.parquet.read_table(tmp_path / "parquet" / "quote.parquet").to_pylist()
    depth = pyarrow.parquet.read_table(tmp_path / "parquet" / "depth.parquet").to_pylist()
    assert [each["bid"] for each in quotes] == ["1.10000000000000000001", "2"]
    assert depth[0]["bids"] == [{"price": "1.10", "size": "2"}]
    assert (
        run(
            ["export", str(events), "--to", "csv", "--kind", "quote", "--symbol", "A/B", "--out", str(tmp_path / "csv")]
        )
        == 0
    )
    (row,) = csv.DictReader((tmp_path / "csv" / "quote.csv").read_text().splitlines())
    assert (row["event_id"], row["bid"], row["received_at"]) == (
        "0",
        "1.10000000000000000001",
        "2026-01-31T14:02:00.000000Z",
    )
    lines = tmp_path / "events.jsonl"
    assert run(["export", str(tmp_path), "--to", "jsonl", "--since", "2026-01-31T14:02:01Z", "--out", str(lines)]) == 0
    assert [json.loads(line)["id"] for line in lines.read_text().splitlines()] == ["1", "2"]
    assert capsys.readouterr().out.splitlines()[-1] == f"{lines}: depth 1, quote 1"


def test_a_recording_of_traffic_is_exported_as_a_session_publishes_it(tmp_path: Path) -> None:
    out = tmp_path / "kraken.jsonl"
    assert run(["export", str(FIXTURE), "--adapter", "kraken", "--to", "jsonl", "--out", str(out)]) == 0
    assert types_in(out) >= {"quote", "depth"}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["export", "absent", "--to", "csv", "--out", "x"], "cannot read absent: No such file"),
        (["export", str(FIXTURE), "--to", "csv", "--out", "x"], "a recording of traffic needs --adapter"),
        (
            ["export", str(FIXTURE), "--to", "csv", "--out", "x", "--kind", "quotes"],
            "--kind: there is no quotes; did you mean quote?",
        ),
        (["export", str(FIXTURE), "--to", "csv", "--out", "x", "--since", "noon"], "--since: "),
        (["cut", str(FIXTURE), str(FIXTURE)], "is there already"),
        (["probe", "krakn"], "no adapter is named krakn; did you mean kraken?"),
        (["record", "kraken", "--out", "x", "--config", "absent.toml"], "absent.toml"),
    ],
)
def test_what_cannot_be_done_is_said(
    arguments: list[str],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 1
    assert reason in capsys.readouterr().err


def test_a_file_that_is_no_database_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.sqlite").write_bytes(b"SQLite format 3\0 and then nothing")
    assert run(["export", str(tmp_path), "--to", "jsonl", "--out", str(tmp_path / "x")]) == 1
    assert "cannot read" in capsys.readouterr().err


def test_the_page_has_the_five_commands_and_settings_that_exist() -> None:
    page = (Path(__file__).parents[2] / "docs" / "recording.md").read_text()
    for line in (
        "tickrelay record kraken --for 60 --out incident.jsonl.zst",
        "tickrelay try kraken incident.jsonl.zst",
        "tickrelay cut incident.jsonl.zst fixture.jsonl --since 12 --until 15",
        "tickrelay try kraken fixture.jsonl --golden fixture.golden.jsonl",
        "tickrelay play fixture.jsonl --once",
    ):
        assert f"```sh\n{line}\n```" in page
    recorder, replay = (tomllib.loads(each) for each in re.findall(r"```toml\n(.*?)```", page, re.S))
    RecorderTable(**recorder["plugins"]["recorder"])
    ReplayTable(**replay["providers"]["kraken"]["replay"])
