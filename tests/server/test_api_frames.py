"""Frames for people who look: who may see them, what is tapped while, and what is hidden."""

from typing import Any, cast

import pytest
import trio

from relay.auth import ApiKey, KeyRing, hash_key
from relay.plugins.hookspecs import TappedSession, Traffic
from relay.server.api import answers, frames
from relay.server.api.frames import FrameBuffer, Inspection
from support.api_harness import Rig

NS = 1_700_000_000_123_456_789
SESSION = TappedSession("helio", "main", 1, lambda text: text.replace("hunter2", "***"))


class Connection:
    frame_tap: Any = None


def tapped(inspection: Inspection, own: Any = None) -> Connection:
    connection = Connection()
    connection.frame_tap = inspection.tap_of(SESSION, cast(Any, connection), own)
    return connection


def receive(connection: Connection, text: str) -> None:
    connection.frame_tap(Traffic("in", NS, text))


async def ask(inspection: Inspection, query: str) -> Any:
    rig = Rig(inspection=inspection, keys=KeyRing([ApiKey(name="desk", digest=hash_key("k"), inspect=["helio.*"])]))
    async with rig.http:
        return await rig.http.get(f"/api/v2/frames?{query}", headers={"Authorization": "Bearer k"})


def test_a_session_is_tapped_only_while_somebody_looks_and_plugins_keep_their_tap() -> None:
    clock, own = [0.0], list[str]()
    inspection = Inspection(lambda: clock[0])
    connection = tapped(inspection, lambda traffic: own.append(traffic.data))
    plugins_tap = connection.frame_tap
    assert inspection.look("helio", "main", 0) == ([], 0)
    receive(connection, "a")
    connection.frame_tap(Traffic("out", NS, "sent"))
    further = tapped(inspection)
    receive(further, "b")
    found, last = inspection.look("helio", "main", 0)
    assert ([traffic.data for _, _, traffic, _ in found], last) == (["a", "b"], 2)
    assert inspection.look("helio", "main", 2) == ([], 2)
    assert own == ["a", "sent"]
    clock[0] = frames.LOOK
    inspection.tick()
    assert connection.frame_tap is plugins_tap
    assert further.frame_tap is None
    assert inspection.look("helio", "main", 0) == ([], 0)


async def test_secrets_are_taken_out_of_many_frames_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "SLICE", -1)
    inspection, turns = Inspection(), 0
    connection = tapped(inspection)
    inspection.look("helio", "main", 0)
    for number in range(30):
        receive(connection, f"hunter2 {number}")

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        answer = await ask(inspection, "provider=helio&account=main")
        nursery.cancel_scope.cancel()
    assert [frame["data"] for frame in answer.json()["frames"]] == [f"*** {number}" for number in range(30)]
    assert turns > 30 * answers.PASSES


def test_the_buffer_is_bounded_in_frames_and_in_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "FRAMES", 3)
    monkeypatch.setattr(frames, "CHARACTERS", 10)
    buffer = FrameBuffer()
    for text in ("1", "2", "3", "4", "nine more", "a frame above the bound"):
        buffer.take(SESSION, Traffic("in", NS, text))
        assert sum(len(each[2].data) for each in buffer.after(0)) <= max(10, len(text))
        assert len(buffer.after(0)) <= 3
    assert [number for number, *_ in buffer.after(0)] == [6]


async def test_frames_are_for_keys_that_may_inspect_and_without_secrets() -> None:
    inspection = Inspection(lambda: 0.0)
    connection = tapped(inspection)
    assert (await ask(inspection, "provider=helio&account=main")).json() == {"frames": [], "last": 0}
    receive(connection, '{"bid":1.0850,"echo":"hunter2","access_token":"abc"}' + "x" * frames.SHOWN)
    (frame,) = (await ask(inspection, "provider=helio&account=main&after=0")).json()["frames"]
    assert frame["data"].startswith('{"bid":1.0850,"echo":"***","access_token":"')
    assert "abc" not in frame["data"]
    assert len(frame["data"]) == frames.SHOWN
    assert frame["cut"] > 0
    assert frame["received_at"] == "2023-11-14T22:13:20.123456Z"


async def test_an_answer_to_a_request_is_a_frame_too_and_its_request_is_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(frames, "SHOWN", 20)
    monkeypatch.setattr(frames, "KEPT", 64)
    inspection = Inspection(lambda: 0.0)
    connection = tapped(inspection)
    await ask(inspection, "provider=helio&account=main")
    url, body = "https://broker.example/orders?signature=abc", '{"password":"pw"}'
    connection.frame_tap(Traffic("http", NS, '[{"echo":"hunter2"}]' + "x" * 100, url, "POST", 200, body))
    (frame,) = (await ask(inspection, "provider=helio&account=main")).json()["frames"]
    assert frame["data"] == '[{"echo":"***"}]xxxx'
    assert frame["cut"] == 120 - len('[{"echo":"hunter2"}]xxxx')
    assert (frame["direction"], frame["method"], frame["status"]) == ("http", "POST", 200)
    assert frame["url"] == "https://broker.example/orders?signature=[redacted]"
    assert frame["received_at"] == "2023-11-14T22:13:20.123456Z"
    assert "pw" not in str(frame)


@pytest.mark.parametrize(
    ("query", "status", "says"),
    [
        ("provider=helio&account=other", 404, "no such session"),
        ("provider=kraken", 403, '[api_keys.desk] inspect = ["kraken.*"]'),
        ("account=main", 400, "provider is missing"),
        ("provider=helio&account=main&after=-1", 400, "after: must be a whole number"),
    ],
)
async def test_a_refusal_names_what_is_wrong(query: str, status: int, says: str) -> None:
    inspection = Inspection(lambda: 0.0)
    tapped(inspection)
    answer = await ask(inspection, query)
    assert answer.status_code == status
    assert says in answer.json()["error"]["message"]
