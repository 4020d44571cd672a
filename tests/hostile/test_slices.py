"""Long work is done in slices, and other tasks have their turn between them; long answers over HTTP have a price."""

from typing import Any

import pytest
import trio

from relay.hub.catch_up import Joining
from relay.model.events import Quote, Stamp
from relay.pusher.costs import Costs
from relay.server import subscribers
from relay.server.api import answers
from support.api_harness import BEARER, Rig
from support.raw import raw
from support.running import APP, port_of, running_relay

STAMP = Stamp(provider="helio", received_at="2025-01-15T10:30:00.120Z")
EVENTS = 1000
STREAMS = 30


async def test_one_long_rewind_is_made_in_slices_and_stays_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    made, most, last = 0, 0, 0
    proceed = Joining.proceed

    def counted(joining: Joining) -> Any:
        nonlocal made
        made += 1
        relay.hub.trigger(APP["id"], ["ticks"], "tick", f'{{"n":{EVENTS + made}}}', now=trio.current_time())
        return proceed(joining)

    monkeypatch.setattr(subscribers, "SLICE", 0)
    async with running_relay() as relay, raw(port_of(relay)) as client, trio.open_nursery() as nursery:
        for number in range(EVENTS):
            relay.hub.trigger(APP["id"], ["ticks"], "tick", f'{{"n":{number + 1}}}', now=trio.current_time())
        monkeypatch.setattr(Joining, "proceed", counted)

        async def turns() -> None:
            nonlocal most, last
            while True:
                await trio.lowlevel.checkpoint()
                most, last = max(most, made - last), made

        nursery.start_soon(turns)
        await client.say("pusher:subscribe", {"channel": "ticks", "rewind": EVENTS})
        await client.say("pusher:ping")
        first = (await client.hear("tick"))["n"]
        told = [first]
        while told[-1] < EVENTS + made:
            told.append((await client.hear("tick"))["n"])
        await client.hear("pusher:pong")
        nursery.cancel_scope.cancel()
    assert told == list(range(first, first + len(told)))
    assert len(told) > EVENTS
    assert made > 10
    assert most <= 2, "the first part is made with the message"


def filled(rig: Rig) -> None:
    for number in range(STREAMS):
        rig.hub.publish(Quote(symbol=f"S{number}", bid="1"), STAMP, rig.now)
    rig.connect(*(f"room{number}" for number in range(STREAMS)))
    for number in range(STREAMS):
        rig.hub.trigger("3", ["room0"], "news", str(number), now=rig.now)


async def turns_beside(monkeypatch: pytest.MonkeyPatch, path: str) -> tuple[int, Any]:
    """Ask for `path` with slices of one item; return how many turns another task had meanwhile, and the answer."""
    monkeypatch.setattr(answers, "SLICE", -1)
    rig, turns = Rig(), 0
    filled(rig)

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with rig.http, trio.open_nursery() as nursery:
        nursery.start_soon(count)
        answer = await (rig.signed("GET", path) if path.startswith("/apps") else rig.http.get(path, headers=BEARER))
        nursery.cancel_scope.cancel()
    assert answer.status_code == 200
    return turns, answer


@pytest.mark.parametrize("path", ["/api/v2/status", "/metrics", "/apps/3/channels", "/apps/3/channels/room0/history"])
async def test_a_long_answer_is_made_in_slices(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    turns, answer = await turns_beside(monkeypatch, path)
    assert turns > STREAMS * answers.PASSES
    assert any(
        text in answer.text for text in (f'"{STREAMS - 1}"', f"S{STREAMS - 1}", f"room{STREAMS - 1}", f" {STREAMS}.0")
    )


@pytest.mark.parametrize("path", ["/api/v2/status", "/metrics"])
@pytest.mark.parametrize("headers", [{}, BEARER])
async def test_status_and_metrics_are_paid_by_their_size(path: str, headers: dict[str, str]) -> None:
    rig = Rig(costs=Costs(api_rate=10, api_burst=10))
    filled(rig)
    async with rig.http:
        assert (await rig.http.get(path, headers=headers)).status_code == 200
        refused = await rig.http.get(path, headers=headers)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert "costs.api_rate" in refused.text
        assert (await rig.http.get("/healthz")).status_code == 200
        assert rig.hub.snapshot()["limits"]["costs.api_rate"] == {"refused": 1}
        rig.now += 10
        assert (await rig.http.get(path, headers=headers)).status_code == 200


async def test_a_page_of_the_status_has_a_part_of_its_lists() -> None:
    rig = Rig()
    filled(rig)
    async with rig.http:
        whole, page, rest = [
            (await rig.http.get(f"/api/v2/status{query}", headers=BEARER)).json()["hub"]
            for query in ("", "?limit=10", "?limit=100&offset=10")
        ]
        refused = await rig.http.get("/api/v2/status?limit=-1")
    assert len(page["streams"]) == 10
    assert page["streams"] + rest["streams"] == whole["streams"]
    assert page["total_streams"] == len(whole["streams"]) >= STREAMS
    assert page["apps"]["3"]["channels"] | rest["apps"]["3"]["channels"] == whole["apps"]["3"]["channels"]
    assert (refused.status_code, refused.json()["error"]["details"]) == (400, {"field": "limit"})
