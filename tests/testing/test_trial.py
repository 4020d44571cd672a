"""What an author is told of an adapter and a recording: each mistake of a made-up venue, with the line of its code."""

import inspect
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from relay.adapter import (
    Ack,
    Adapter,
    Book,
    Fetch,
    Nack,
    Offer,
    Outgoing,
    Sequence,
    Session,
    Subscribe,
    Unknown,
    dumps,
    loads,
)
from relay.cli import run
from relay.model.channels import Topic
from relay.model.events import Depth, Quote
from relay.testing.recording import Record, Recording, beside, write_recording
from relay.testing.subject import subject
from relay.testing.trial import Report, trial

AB = Topic(kind="quote", symbol="A/B")
BOOK = Topic(kind="depth", symbol="A/B")


class Venue(Adapter):
    """Quotes and numbered, summed up depth."""

    name = "venue"
    session = Session(
        url="wss://venue.example/{token}", book=Book.DELTAS, sequence=Sequence(scope="topic", contiguous=True)
    )
    offers = (Offer(kind="quote"), Offer(kind="depth"))

    @staticmethod
    def checksum(bids: Any, asks: Any) -> str:
        return str(len(bids) + len(asks))

    def prepare(self) -> Iterable[Fetch]:
        yield Fetch(tag="login", url="https://venue.example/login", method="POST")

    def encode(self, outgoing: Outgoing) -> Iterable[str]:
        if isinstance(outgoing, Subscribe):
            yield dumps({"subscribe": sorted({topic.kind for topic in outgoing.topics})})

    def decode(self, message: str) -> Iterable[Any]:
        match loads(message):
            case {"ack": kind}:
                yield Ack((Topic(kind=kind, symbol="A/B"),))
            case {"no": why}:
                yield Nack((AB,), why)
            case {"bid": bid, "ask": ask}:
                yield Quote(symbol="A/B", bid=bid, ask=ask, timestamp="2025-01-15T10:30:00Z")
            case {"bids": bids, "asks": asks, "n": n} as book:
                first = book.get("snapshot", False)
                yield Depth(
                    symbol="A/B",
                    bids=bids,
                    asks=asks,
                    snapshot=first,
                    first_seq=n,
                    last_seq=n,
                    checksum=book.get("sum"),
                )
            case {"strange": _} as strange:
                yield Unknown(strange, "a strange one")  # this line
            case other:
                yield Quote(symbol="A/B", bid=other["missing"])  # and this line


def tried(*frames: dict[str, Any] | Record, **members: Any) -> Report:
    records = [each if isinstance(each, Record) else Record(t=1.0, dir="in", data=dumps(each)) for each in frames]
    dated = (Record(**{**_members(each), "t": 1_736_937_001.0 + number}) for number, each in enumerate(records))
    return trial(subject(Venue, Recording(tuple(dated)), **members))


def _members(record: Record) -> dict[str, Any]:
    return {name: getattr(record, name) for name in ("dir", "data", "url", "code", "own")}


def line_of(text: str) -> str:
    lines, first = inspect.getsourcelines(Venue)
    return f"{__file__}:{first + next(n for n, line in enumerate(lines) if text in line)}"


def snapshot(n: int, **members: Any) -> dict[str, Any]:
    return {"bids": [["1", "1"]], "asks": [["2", "1"]], "n": n, "snapshot": True, **members}


def test_a_whole_recording_has_no_problem() -> None:
    report = tried(
        {"ack": "quote"}, {"ack": "depth"}, {"bid": "1", "ask": "2"}, snapshot(5, sum="2"),
        {"bids": [["1.5", "1"]], "asks": [], "n": 6, "sum": "3"}, Record(t=1, dir="out", data='{"subscribe":["depth","quote"]}'),
    )  # fmt: skip
    assert report.problems == []
    assert dict(report.published) == {"quote": 1, "depth": 2}
    assert report.acknowledged == {AB, BOOK}
    assert report.checksums == {"equal": 2}
    assert [pair.same for pair in report.frames] == [True]
    assert report.delays == [3.0]


def test_what_is_not_understood_is_told_with_the_authors_line() -> None:
    report = tried({"bid": "1", "ask": "2"}, {"strange": 1}, {"other": 1})
    assert [(each.what, each.code, each.where) for each in report.samples] == [
        ("a strange one", line_of("# this line"), "the recording:2"),
        ("KeyError: 'missing'", line_of("# and this line"), "the recording:3"),
    ]
    assert report.problems == ["2 not understood"]


@pytest.mark.parametrize(
    ("frames", "problem"),
    [
        ([snapshot(1), {"bids": [], "asks": [["3", "1"]], "n": 3}], "1 gaps"),
        ([snapshot(1, sum="2"), {"bids": [], "asks": [["3", "1"]], "n": 2, "sum": "9"}], "checksums differ"),
        ([snapshot(1), {"bids": [["2.5", "1"]], "asks": [], "n": 2}], "1 crossed: book A/B"),
        ([{"bid": "2", "ask": "1"}], "1 crossed: quote A/B"),
        ([{"bid": "1", "ask": "2"}, {"no": "not for you"}], "1 streams refused: not for you"),
    ],
)
def test_each_mistake_is_a_problem(frames: list[dict[str, Any]], problem: str) -> None:
    assert any(problem in each for each in tried(*frames).problems)


def test_a_value_that_no_event_has_is_lost() -> None:
    assert tried({"bid": "1", "ask": "2", "volume": "77"}).lost == {".volume": "77"}


def test_a_connection_that_ends_in_the_recording_ends_for_the_session() -> None:
    report = tried(
        snapshot(1),
        Record(t=1, dir="close", code=1001, data="bye"),
        Record(t=1, dir="open", url="wss://x"),
        snapshot(9),
    )
    assert report.raised["connection"] == 3
    assert report.gaps == ["the recording:2 depth A/B: the session was down"]


def test_frames_are_paired_by_what_they_say_then_by_their_members() -> None:
    pairs = beside(['{"op":"sub","id":1}', '{"op":"x"}', "plain"], ["plain", '{"id":2,"op":"sub"}', '{"new":1}'])
    assert [(pair.same, pair.differs, pair.recorded, pair.sent) for pair in pairs] == [
        (False, ("id",), '{"op":"sub","id":1}', '{"id":2,"op":"sub"}'),
        (False, (), '{"op":"x"}', None),
        (True, (), "plain", "plain"),
        (False, (), None, '{"new":1}'),
    ]


def test_a_member_more_or_less_makes_no_other_frame() -> None:
    (pair,) = beside(['{"op":"sub","to":"A"}'], ['{"op":"sub","id":7,"to":"A"}'])
    assert pair.differs == ("id",)


def test_the_command_prints_writes_a_golden_file_and_exits_by_what_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = [Record(t=1.0, dir="in", data='{"bid":"1","ask":"2"}'), Record(t=2.0, dir="in", data='{"strange":1}')]
    write_recording(tmp_path / "good.jsonl", frames[:1])
    write_recording(tmp_path / "bad.jsonl", frames)
    adapter = f"{__name__}:Venue"
    assert run(["try", adapter, str(tmp_path / "good.jsonl"), "--golden", str(tmp_path / "golden.jsonl")]) == 0
    assert "problems: none" in capsys.readouterr().out
    assert json.loads((tmp_path / "golden.jsonl").read_text())["quote"]["bid"] == "1"
    assert run(["try", adapter, str(tmp_path / "bad.jsonl"), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["unknown"], report["problems"]) == (1, ["1 not understood"])
    assert run(["try", "krakn", str(tmp_path / "good.jsonl")]) == 1
    assert "did you mean kraken?" in capsys.readouterr().err
    assert run(["try", "kraken", str(tmp_path / "absent.jsonl")]) == 1
    assert "cannot read" in capsys.readouterr().err
