"""The recorder: what is in its files, what is not (secrets), and what happens where there is no room."""

import gzip
import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trio

from relay.errors import HIDDEN
from relay.model.events import Quote, Stamp
from relay.plugins import TappedSession, Traffic
from relay.plugins.manager import load_plugins
from relay.plugins.masking import masked
from relay.testing.recording import Record, read_recording
from relay_recorder import relay_services
from relay_recorder.recorder import FLUSH, PAUSE, Recorder
from relay_recorder.table import RecorderTable
from support.deadlines import WITHIN
from support.running import running_relay

STAMP = Stamp(provider="toy", received_at="2025-01-15T10:30:00.000000Z")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def session(*secrets: str, provider: str = "toy", account: str | None = None) -> TappedSession:
    def mask(text: str) -> str:
        for secret in secrets:
            text = text.replace(secret, HIDDEN)
        return text

    return TappedSession(provider, account, 1, mask)


def recorder(path: Path, clock: Clock | None = None, **settings: Any) -> Recorder:
    return Recorder(RecorderTable(directory=str(path), **settings), clock=clock or Clock())


def frame(number: int, direction: Any = "in") -> Traffic:
    return Traffic(direction, number * 1_000_000_000, f'{{"n":{number}}}')


def files(path: Path) -> list[Path]:
    return sorted(each for each in path.rglob("*") if each.is_file())


def records(path: Path) -> Iterator[Record]:
    for each in files(path):
        yield from read_recording(each).records


@pytest.mark.parametrize(("compression", "suffix"), [("zstd", ".jsonl.zst"), ("gzip", ".jsonl.gz"), ("none", ".jsonl")])
def test_what_was_flushed_can_be_read_although_the_file_is_not_finished(
    tmp_path: Path, compression: Any, suffix: str
) -> None:
    clock = Clock()
    made = recorder(tmp_path, clock, compression=compression)
    tap = made.tap(session(account="main/1"))
    assert tap is not None
    tap(Traffic("open", 1_000_000_000, url="wss://venue.example"))
    tap(frame(2, "out"))
    clock.now = FLUSH
    made.write()
    (path,) = files(tmp_path)
    assert path.name.endswith(suffix)
    assert path.parent == tmp_path / "toy" / "main%2F1"
    assert path.stat().st_mode & 0o077 == 0
    killed = list(read_recording(path).records)
    assert [(each.dir, each.data or each.url) for each in killed] == [
        ("open", "wss://venue.example"),
        ("out", '{"n":2}'),
    ]
    tap(Traffic("http", 3_000_000_000, "no", "https://venue.example/x", "POST", 401, '{"a":1}'))
    tap(Traffic("close", 2_000_000_000, "bye", status=1001, own=True))
    made.write()
    made.close()
    http, close = read_recording(path).records[2:]
    assert http == Record(
        t=3, dir="http", url="https://venue.example/x", method="POST", status=401, request='{"a":1}', data="no"
    )
    assert close == Record(t=3, dir="close", code=1001, data="bye", own=True)  # time never runs backwards in a file


def test_a_rotated_file_begins_with_the_head_of_its_connection(tmp_path: Path) -> None:
    clock = Clock()
    made = recorder(tmp_path, clock, rotate_after=60.0)
    tap = made.tap(session())
    assert tap is not None
    for each in (
        Traffic("http", 1, "symbols", "/symbols", status=200),
        Traffic("open", 2, url="wss://a"),
        frame(3, "out"),
        frame(4),
    ):
        tap(each)
    made.write()
    clock.now = 61
    tap(frame(5))
    made.write()
    tap(Traffic("close", 6_000_000_000, status=1006))
    tap(Traffic("open", 7_000_000_000, url="wss://b"))
    made.write()
    clock.now = 122
    tap(frame(8))
    made.write()
    made.close()
    assert [[each.data or each.url for each in read_recording(path).records] for path in files(tmp_path)] == [
        ["symbols", "wss://a", '{"n":3}', '{"n":4}'],
        ["symbols", "wss://a", '{"n":3}', '{"n":5}', "", "wss://b"],
        ["wss://b", '{"n":8}'],
    ]


def test_what_finds_no_room_is_counted_in_its_place(tmp_path: Path) -> None:
    made = recorder(tmp_path, queue_bytes=1024)
    tap = made.tap(session())
    assert tap is not None
    for number in range(10):
        tap(frame(number))
    made.write()
    tap(frame(10))
    assert made.levels()["queue", "bytes"] > 0
    made.write()
    made.close()
    assert made.levels()["queue", "bytes"] == 0
    assert made.counts() == {
        ("events", "lost_queue_full"): 0,
        ("events", "lost_not_written"): 0,
        ("frames", "lost_queue_full"): 6,
        ("frames", "lost_not_written"): 0,
    }
    found = list(records(tmp_path))
    (lost,) = [each for each in found if each.dir == "lost"]
    assert (lost.count, lost.data) == (6, "the queue was full")
    assert [each.data for each in found if each.dir == "in"] == ['{"n":0}', '{"n":1}', '{"n":2}', '{"n":3}', '{"n":10}']


def test_a_disk_that_cannot_be_written_costs_records_only_and_is_tried_again(tmp_path: Path) -> None:
    clock = Clock()
    (tmp_path / "r").write_text("a file where the directory should be")
    made = recorder(tmp_path / "r", clock, events=True)
    tap = made.tap(session())
    assert tap is not None
    tap(frame(1))
    made.take_event(Quote(symbol="A", bid="1"), STAMP, "1")
    made.write()
    assert made.levels()["files", "failing"] == 2
    (tmp_path / "r").unlink()
    tap(frame(2))
    made.write()  # too early: it is not tried with each batch
    clock.now = PAUSE
    tap(frame(3))
    made.write()
    made.close()
    assert made.levels()["files", "failing"] == 0
    assert [made.counts()[kind, "lost_not_written"] for kind in ("events", "frames")] == [1, 2]
    found = [each for path in files(tmp_path / "r" / "toy") for each in read_recording(path).records]
    assert [(each.dir, each.count) for each in found] == [("in", 0), ("lost", 2)]
    assert found[1].data.startswith("FileExistsError") or "NotADirectory" in found[1].data


def test_the_oldest_files_are_deleted_and_never_one_that_is_written(tmp_path: Path) -> None:
    clock = Clock()
    made = recorder(tmp_path, clock, rotate_bytes=1024, keep_bytes=1024 * 1024, compression="none")
    tap = made.tap(session())
    assert tap is not None
    for number in range(1, 6):
        tap(Traffic("in", number, "x" * 400_000))
        made.write()
        clock.now += FLUSH
        made.write()
    left = files(tmp_path)
    made.close()
    assert 1 <= len(left) <= 2
    assert sum(path.stat().st_size for path in left) <= 1024 * 1024


def test_events_are_rows_with_their_canonical_json(tmp_path: Path) -> None:
    made = recorder(tmp_path, events=True, frames=False)
    assert made.tap(session()) is None
    made.take_event(Quote(symbol="A/B", bid="1.10"), STAMP, "7")
    made.write()
    made.close()
    (path,) = files(tmp_path)
    with sqlite3.connect(path) as db:
        ((id, kind, provider, symbol, event),) = db.execute("SELECT id, kind, provider, symbol, event FROM events")
    db.close()
    assert (id, kind, provider, symbol) == ("7", "quote", "toy", "A/B")
    assert json.loads(event)["quote"]["bid"] == "1.10"


@pytest.mark.parametrize(
    ("traffic", "gone"),
    [
        (Traffic("out", 1, '{"op":"login","sign":"c2ln","ts":1}'), "c2ln"),
        (Traffic("out", 1, '{"data":"{\\"auth\\":\\"app:c2ln\\"}"}'), "c2ln"),
        (Traffic("in", 1, '{"result":{"accessToken":"eyJ.x.y","expires":1}}'), "eyJ"),
        (Traffic("in", 1, '{"listenKey": "pqia91ma19a5s61"}'), "pqia91"),
        (Traffic("http", 1, '{"api_secret":"s3cret"}', "/keys"), "s3cret"),
        (Traffic("http", 1, "", "https://v.example/x?a=1&signature=c2ln&b=2"), "c2ln"),
        (Traffic("http", 1, "", "/x", request="user=a&password=hunter2&x=1"), "hunter2"),
        (Traffic("open", 1, url="wss://v.example/ws?token=abc123"), "abc123"),
    ],
)
def test_what_only_its_name_gives_away_is_left_out(traffic: Traffic, gone: str) -> None:
    (found,) = masked([traffic], lambda text: text)
    assert gone not in repr(found)
    assert HIDDEN in repr(found)


def test_public_members_of_those_names_stay_in_what_a_provider_sends() -> None:
    swap = Traffic("in", 1, '{"token":"So111","signature":"5xyz","key":"k"}')
    assert masked([swap], lambda text: text) == [swap]


def test_it_is_off_without_a_directory_and_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(relay_services({})) == []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"recorder.compression: zstd needs .*tickrelay\[zstd\]"):
        RecorderTable(directory="x", compression="zstd").check()
    assert recorder(Path("x"))._folder.compression == "gzip"


def spellings(secret: str) -> set[str]:
    return {secret, quote(secret, safe=""), json.dumps(secret)[1:-1]}


async def test_no_secret_of_any_shipped_broker_is_in_the_files(tmp_path: Path) -> None:
    """Every simulator of the demo, each with its real way of logging in: nothing of a login is found in what was recorded."""
    plugins = load_plugins()
    async with trio.open_nursery() as simulators:
        providers: dict[str, Any] = {}
        for each in (item.value for item in plugins.collect("relay_simulators")):
            ws_url, http_url = await simulators.start(each.run)
            table = {"adapter": each.adapter, "url": ws_url, "http_url": http_url, "options": dict(each.options),
                     "symbols": dict(each.symbols), "pinned": list(each.pinned)}  # fmt: skip
            credentials = {"credentials": dict(each.credentials)}
            providers[each.provider] = table | (
                {"accounts": {each.account: credentials}} if each.account else credentials
            )
        recording = {"recorder": {"directory": str(tmp_path), "compression": "gzip", "events": True}}
        async with running_relay(providers, plugins=recording) as relay:
            with trio.fail_after(WITHIN):
                while any(each["counters"]["published"] < 3 for each in relay.providers.statuses()):
                    await trio.sleep(0.05)
            contexts = {name: each._context for name, each in relay.providers.connections()}
            secrets = {
                name: [*context.credentials.values(), *context.learned.values()] for name, context in contexts.items()
            }
        simulators.cancel_scope.cancel()
    assert sum(map(len, secrets.values())) > 8
    text = {path: gzip.decompress(path.read_bytes()).decode() for path in files(tmp_path) if path.suffix == ".gz"}
    assert len(text) == len(secrets)
    for path, written in text.items():
        assert '"dir":"in"' in written, path
        for secret in {spelling for each in secrets.values() for value in each for spelling in spellings(value)}:
            assert not re.search(rf"(?<![0-9]){re.escape(secret)}(?![0-9])", written), f"{secret} is in {path}"
        read_recording(path)
