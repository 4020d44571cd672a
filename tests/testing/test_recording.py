import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.testing.recording import (
    Record,
    RecordingError,
    format_line,
    parse_line,
    read_recording,
    request_key,
    write_recording,
)

SESSION = [
    Record(t=1.0, dir="http", url="https://venue.example/api/book?symbol=X&limit=5", data='{"n":1}'),
    Record(t=1.5, dir="open", url="wss://venue.example/stream"),
    Record(t=1.5, dir="out", data='{"op":"subscribe"}'),
    Record(t=2.25, dir="in", data='{"price":"1.10"}'),
    Record(t=2.5, dir="in", data=b"\x00\xff"),
    Record(t=3.0, dir="http", url="https://venue.example/api/book?limit=5&symbol=X", data='{"n":2}'),
    Record(t=3.5, dir="http", url="https://venue.example/login", method="POST", status=401, data="no"),
]

records = st.one_of(
    st.builds(Record, t=st.floats(0, 1e11), dir=st.sampled_from(["in", "out"]), data=st.text() | st.binary()),
    st.builds(Record, t=st.floats(0, 1e11), dir=st.just("open"), url=st.text()),
    st.builds(
        Record,
        t=st.integers(0, 10**11),
        dir=st.just("http"),
        url=st.text(),
        data=st.text(),
        method=st.sampled_from(["GET", "POST"]),
        status=st.integers(200, 599),
    ),
)


def test_what_is_written_is_read(tmp_path):
    write_recording(tmp_path / "session.jsonl", SESSION)
    recording = read_recording(tmp_path / "session.jsonl")
    assert list(recording.records) == SESSION
    assert [record.data for record in recording.incoming] == ['{"price":"1.10"}', b"\x00\xff"]


@given(records)
def test_a_record_survives_its_line(record):
    line = format_line(record)
    assert "\n" not in line
    assert parse_line(line) == record


def test_answers_are_kept_in_order_for_each_request_whatever_the_order_of_its_query(tmp_path):
    write_recording(tmp_path / "session.jsonl", SESSION)
    answers = read_recording(tmp_path / "session.jsonl").answers()
    book = answers[request_key("get", "/api/book?symbol=X&limit=5")]
    assert [answer.data for answer in book] == ['{"n":1}', '{"n":2}']
    assert answers[request_key("POST", "http://127.0.0.1:1/login")][0].status == 401
    assert request_key("GET", "/login") not in answers


def test_blank_lines_and_unknown_members_are_passed_over(tmp_path):
    (tmp_path / "s.jsonl").write_text('\n{"t":1,"dir":"in","data":"x","note":"by hand"}\n\n')
    assert read_recording(tmp_path / "s.jsonl").records == (Record(t=1, dir="in", data="x"),)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "not JSON"),
        ("[1]", "a record is a JSON object"),
        ('{"t":1}', "dir: expected one of open, out, in, http, close, lost, got None"),
        ('{"t":1,"dir":"inn"}', "dir: expected one of open, out, in, http, close, lost, got 'inn'"),
        ('{"dir":"in","data":"x"}', "t: expected Unix seconds, got None"),
        ('{"t":true,"dir":"in","data":"x"}', "t: expected Unix seconds, got True"),
        ('{"t":-1,"dir":"in","data":"x"}', "t: expected Unix seconds, got -1"),
        ('{"t":1,"dir":"in"}', "data is missing"),
        ('{"t":1,"dir":"in","data":{}}', "data: expected text"),
        ('{"t":1,"dir":"in","b64":"$$"}', "b64: not base64"),
        ('{"t":1,"dir":"in","b64":"é"}', "b64: not base64"),
        ('{"t":1,"dir":"open"}', "url is missing"),
        ('{"t":1,"dir":"http","url":"/x","data":"","status":99}', "status: expected 200 to 599, got 99"),
        ('{"t":1,"dir":"http","url":"/x","data":"","method":1}', "method: expected text"),
    ],
)
def test_a_bad_line_is_named_with_its_member(tmp_path, line, complaint):
    good = json.dumps({"t": 0, "dir": "in", "data": "x"})
    (tmp_path / "bad.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(RecordingError) as refusal:
        read_recording(tmp_path / "bad.jsonl")
    assert str(refusal.value).startswith(f"{tmp_path / 'bad.jsonl'}:2: ")
    assert complaint in str(refusal.value)


def test_time_that_runs_backwards_is_refused(tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"t":2,"dir":"in","data":"x"}\n{"t":1,"dir":"in","data":"y"}\n')
    with pytest.raises(RecordingError, match=r":2: t: 1 is before the 2 of the line above"):
        read_recording(tmp_path / "bad.jsonl")


def test_a_missing_file_is_the_systems_own_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_recording(tmp_path / "absent.jsonl")
