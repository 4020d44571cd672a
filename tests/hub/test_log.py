"""The log of topics: numbers that the store reserves, and what a restart makes of a topic."""

from collections.abc import Callable
from typing import Any

import pytest

from relay.hub.log import FIRST_BLOCK, STATES
from relay.model.events import Order, Quote
from relay.store.interface import Done, LoggedEvent, LoggedTopic, Row

QUOTES, ACCOUNT = "quote.x.BTC-USDT", "private-account.x.A"


class Disk:
    """A store that answers when it is told to."""

    def __init__(self) -> None:
        self.logs = self
        self.waiting: list[Done] = []
        self.reserved: list[tuple[str, str, int]] = []
        self.events: list[Any] = []
        self.rows: dict[str, bytes | None] = {}

    def reserve(self, topic: str, epoch: str, up_to: int, done: Done) -> None:
        self.reserved.append((topic, epoch, up_to))
        self.waiting.append(done)

    def log(self, topic: str, events: list[Any], taken: Callable[[], object]) -> None:
        self.events += events
        taken()

    def log_first(self, topic: str, event: Any, done: Done) -> None:
        self.events.append(event)
        self.waiting.append(done)

    def write(self, row: Row) -> None:
        assert row.table == STATES
        self.rows[row.key] = row.value

    def forget(self, topic: str) -> None:
        raise AssertionError(topic)

    def answer(self, failure: str = "") -> None:
        waiting, self.waiting = self.waiting, []
        for done in waiting:
            done(failure)


def order(**more: Any) -> Order:
    return Order(**{"event": "ORDER_CREATED", "id": "o1", "symbol": "EURUSD", "side": "BUY", "status": "OPEN", **more})


@pytest.fixture
def disk() -> Disk:
    return Disk()


def test_a_block_that_is_used_up_before_the_store_answers_ends_the_epoch(
    relay_of: Callable[..., Any], disk: Disk
) -> None:
    relay = relay_of(store=disk)
    client = relay.client()
    client.subscribe(QUOTES)

    def publish(events: int) -> set[str]:
        epochs = set()
        for n in range(events):
            relay.publish(Quote(symbol="BTC/USDT", bid=str(n)))
            client.take()
            (topic,) = relay.hub.snapshot()["streams"]
            epochs.add(topic["epoch"])
        return epochs

    (first,) = publish(1)
    disk.answer()
    (_, epoch, up_to) = disk.reserved[0]
    assert (epoch, up_to) == (first, FIRST_BLOCK)
    assert publish(up_to - 1) == {first}, "up to the last number that was reserved"
    assert [epoch for _, epoch, _ in disk.reserved] == [first, first]
    disk.answer("the disk is full")
    (second,) = publish(1)
    assert second != first
    assert disk.reserved[-1][1] == second
    late = disk.waiting
    disk.answer("the disk is full")
    assert publish(10) == {second}, "a new epoch's numbers need no reservation"
    assert len(disk.reserved) > 3, "and it is asked for again with each"
    disk.answer()
    assert late
    assert publish(10) == {second}
    assert [event.seq for event in disk.events] == list(range(1, up_to + 22))


def test_an_accounts_event_is_seen_when_it_is_on_disk_or_cannot_be(relay_of: Callable[..., Any], disk: Disk) -> None:
    relay = relay_of(store=disk)
    client = relay.client()
    client.subscribe(ACCOUNT)
    for answer in ("", "the disk is full"):
        relay.publish(order(id=f"o{answer}"), account="A")
        assert client.take() == []
        disk.answer(answer)
        (told,) = client.take()
        assert told["data"]["order"]["id"] == f"o{answer}"


def test_who_joins_after_a_restart_gets_the_state_of_the_account_from_before(
    relay_of: Callable[..., Any], disk: Disk
) -> None:
    before = relay_of(store=disk)
    for event in (order(), order(id="o2"), order(id="o2", event="ORDER_FILLED", status="FILLED")):
        before.publish(event, account="A")
    disk.answer()
    rows = {STATES: [(key, value) for key, value in disk.rows.items() if value is not None]}
    assert {(row.key, row.value) for row in before.hub.stored()} == set(rows[STATES])
    (key, epoch, up_to) = disk.reserved[0]
    topic = LoggedTopic(epoch=epoch, reserved=up_to, granted=up_to + 1000, events=[logged(e) for e in disk.events])

    after = relay_of(store=disk)
    rows[STATES].append((f"{key}\norder A damaged", b"{"))
    assert after.hub.restore(rows, {key: topic}, after.now, int(after.now * 1e9)) == 1
    disk.answer()
    client = after.client()
    told = [message["data"] for message in client.subscribe(ACCOUNT) if message["event"] == "order"]
    assert [(event["order"]["id"], event["seq"]) for event in told] == [("o1", 1)]
    resumed = after.client().subscribe(ACCOUNT, resume={"epoch": epoch, "seq": 1}).of("order", "gap")
    assert resumed.names == ["order", "order", "gap"]
    assert resumed.seqs == [2, 3, up_to + 1]
    gap = resumed[-1]["data"]
    assert (gap["reason"], gap["from"], gap["to"]) == ("restart", 4, up_to)


def test_a_topic_that_died_before_its_first_batch_is_resumed_behind_a_gap_over_all_of_it(
    relay_of: Callable[..., Any], disk: Disk
) -> None:
    before = relay_of(store=disk)
    seen = before.client()
    seen.subscribe(QUOTES)
    before.publish(Quote(symbol="BTC/USDT", bid="1"))
    ((key, epoch, up_to),) = disk.reserved
    after = relay_of(store=disk)
    topic = LoggedTopic(epoch=epoch, reserved=up_to, granted=up_to + 1000)
    after.hub.restore({}, {key: topic}, after.now, int(after.now * 1e9))
    (told,) = after.client().subscribe(QUOTES, resume={"epoch": epoch, "seq": 1}).of("gap", "tickrelay:resume_failed")
    gap = told["data"]
    assert (gap["reason"], gap["from"], gap["to"], gap["seq"]) == ("restart", 1, up_to, up_to + 1)


@pytest.mark.parametrize("complete", [True, False])
def test_an_applications_channel_goes_on_after_an_orderly_end_and_says_that_it_does_not_after_a_crash(
    relay_of: Callable[..., Any], disk: Disk, complete: bool
) -> None:
    """It has no gap that tells of a loss. What is known of it is there in both cases."""
    before = relay_of(store=disk)
    for n in (1, 2, 3):
        before.trigger("private-cache-room", data=str(n))
    ((key, epoch, up_to),) = disk.reserved
    events = [logged(each) for each in disk.events]
    after = relay_of(store=disk, epoch="later")
    topic = LoggedTopic(epoch=epoch, reserved=up_to, granted=up_to + 1000, events=events, complete=complete)
    after.hub.restore({}, {key: topic}, after.now, int(after.now * 1e9))
    resumed = after.client().subscribe("private-cache-room", resume={"epoch": epoch, "seq": 1}, ids=True)
    refused = resumed.of("tickrelay:resume_failed")
    if complete:
        assert not refused
        assert [message["data"] for message in resumed.of("news")] == ["2", "3"]
    else:
        assert [message["data"]["reason"] for message in refused] == ["epoch_changed"]
    rewound = after.client().subscribe("private-cache-room", rewind=2)
    assert [message["data"] for message in rewound.of("news")] == ["2", "3"]


def test_a_merged_stream_says_after_a_restart_that_it_began_anew(relay_of: Callable[..., Any], disk: Disk) -> None:
    """It is made of its providers' streams, which go on: its last values are those of before."""
    before = relay_of(store=disk)
    before.client().subscribe(QUOTES)
    (joined,) = before.client().subscribe("quote.all.BTC-USDT", ids=True)
    before.publish(Quote(symbol="BTC/USDT", bid="1"))
    ((key, epoch, up_to),) = disk.reserved
    after = relay_of(store=disk, epoch="later")
    topic = LoggedTopic(
        epoch=epoch, reserved=up_to, granted=up_to + 1000, events=[logged(each) for each in disk.events]
    )
    after.hub.restore({}, {key: topic}, after.now, int(after.now * 1e9))
    told = after.client().subscribe("quote.all.BTC-USDT", resume={"epoch": joined["data"]["epoch"], "seq": 1})
    assert [message["data"]["reason"] for message in told.of("tickrelay:resume_failed")] == ["epoch_changed"]
    joined = after.client().subscribe("cache-quote.all.BTC-USDT")
    assert [message["data"]["quote"]["bid"] for message in joined.of("quote")] == ["1"]


def logged(event: Any) -> LoggedEvent:
    return LoggedEvent(event.seq, event.id, event.at, event.head, event.tail, event.policy.value, event.conflation_key)
