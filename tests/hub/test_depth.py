"""Books: applying deltas, snapshots for late joiners, and the effect of a gap."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.hub.history import DepthBook
from relay.hub.outbox import OutboxLimits
from relay.model.events import Depth, Gap, Staleness, Stamp
from relay.pusher.messages import ResumePosition
from relay.testing.subscriber import ChannelView

STAMP = Stamp(provider="x", received_at="2025-01-15T10:30:00Z")


def depth(bids=(), asks=(), *, snapshot=False, symbol="A", **more):
    return Depth(symbol=symbol, bids=bids, asks=asks, snapshot=snapshot, **more)


def folded(*events):
    book = DepthBook()
    for event in events:
        book.apply(event, STAMP)
    return book


def snapshot_of(book: DepthBook) -> Depth | None:
    if not book.ready:
        return None
    copy = book.copy()
    return copy.snapshot(copy.sorted_bids(), copy.sorted_asks())


def test_the_book_is_sorted_from_the_best_price_and_keeps_the_providers_digits():
    book = folded(
        depth([("9", "1"), ("10.0", "2")], [("11.50", "3"), ("11.4", "4")], snapshot=True),
        depth([("9.50", "0.10")], [("11.4", "0.00")], last_seq=7, checksum="abc"),
    )
    snapshot = snapshot_of(book)
    assert snapshot.bids == (("10.0", "2"), ("9.50", "0.10"), ("9", "1"))
    assert snapshot.asks == (("11.50", "3"),)
    assert (snapshot.snapshot, snapshot.last_seq, snapshot.checksum) == (True, 7, "abc")


def test_prices_are_the_same_level_when_they_are_the_same_number():
    book = folded(
        depth([("1.10", "1")], snapshot=True), depth([("1.1", "5")]), depth([("2", "1")]), depth([("2.000", "0")])
    )
    assert snapshot_of(book).bids == (("1.1", "5"),)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3), st.integers(0, 3), st.sampled_from(["", "5"]))
def test_only_equal_numbers_are_the_same_level(price, zeros, more):
    text = f"{price:f}"
    spelling = text + more + "0" * zeros
    book = folded(depth([(text, "1"), (spelling, "2")], snapshot=True))
    assert len(snapshot_of(book).bids) == (1 if Decimal(text) == Decimal(spelling) else 2)


def test_prices_of_many_digits_are_not_rounded_together():
    many = "12345678901234567890123456789012345.6"
    book = folded(depth([(many + "7", "1"), (many + "8", "1")], snapshot=True))
    assert [price for price, _ in snapshot_of(book).bids] == [many + "8", many + "7"]


@pytest.mark.parametrize("zero", ["0", "0.0", "0.00000000", "-0", "00"])
def test_every_spelling_of_zero_removes_the_level(zero):
    assert snapshot_of(folded(depth([("1", "1")], snapshot=True), depth([("1", zero)]))).bids == ()


def test_a_delta_without_a_book_is_no_book():
    book = folded(depth([("1", "1")]))
    assert snapshot_of(book) is None
    assert not book.ready


prices = st.decimals(0, 3, places=1).map(lambda price: f"{price:f}")
levels = st.lists(st.tuples(prices, st.sampled_from(["0", "0.0", "1", "2.50"])), max_size=4)
events = st.lists(st.builds(depth, levels, levels, snapshot=st.booleans()), max_size=20)


@given(events, st.integers(0, 19))
def test_a_snapshot_and_its_deltas_make_the_book(events, split):
    """Whoever joins in the middle sees in the end what those see who were there from the start."""
    whole = folded(*events)
    snapshot = snapshot_of(folded(*events[:split]))
    joined = folded(*([snapshot] if snapshot else []), *events[split:])
    assert snapshot_of(joined) == snapshot_of(whole)


@given(events)
def test_levels_are_distinct_positive_and_ordered(events):
    snapshot = snapshot_of(folded(*events))
    if snapshot is not None:
        for side, descending in ((snapshot.bids, True), (snapshot.asks, False)):
            prices = [Decimal(price) for price, _ in side]
            assert prices == sorted(set(prices), reverse=descending)
            assert all(Decimal(size) for _, size in side)


@pytest.mark.parametrize("channel", ["depth.x.A", "cache-depth.x.A", "private-depth.x.A"])
def test_a_late_joiner_gets_a_snapshot_with_the_topics_number_and_then_deltas(relay, channel):
    relay.publish(depth([("1", "1")], snapshot=True))
    relay.publish(depth([("2", "1")]))
    client = relay.client()
    _, snapshot = client.subscribe(channel)
    relay.publish(depth([("3", "1")]))
    (delta,) = client.take()
    assert snapshot["data"]["depth"] == {"symbol": "A", "bids": [["2", "1"], ["1", "1"]], "asks": [], "snapshot": True}
    assert (snapshot["data"]["seq"], delta["data"]["seq"]) == (2, 3)


def test_without_a_book_a_late_joiner_waits_for_the_snapshot(relay):
    client = relay.client()
    assert client.subscribe("depth.x.A").names == ["subscription_succeeded"]
    relay.publish(depth([("2", "1")]))
    assert client.take() == []
    relay.publish(depth([("1", "1")], snapshot=True))
    relay.publish(depth([("3", "1")]))
    assert client.take().seqs == [2, 3]


def test_a_cache_channel_without_a_book_is_a_miss(relay):
    assert relay.client().subscribe("cache-depth.x.A").names == ["subscription_succeeded", "cache_miss"]


def test_after_a_gap_there_is_no_book_before_the_next_snapshot(relay):
    there = relay.client()
    there.subscribe("depth.x.A")
    relay.publish(depth([("1", "1")], snapshot=True))
    relay.publish(Gap(of="depth", symbol="A", refill="snapshot", reason="reconnect"))
    late = relay.client()
    assert late.subscribe("depth.x.A").names == ["subscription_succeeded"]
    relay.publish(depth([("2", "1")]))
    relay.publish(depth([("3", "1")], snapshot=True))
    assert there.take().seqs == [1, 2, 3, 4]
    assert late.take().seqs == [4]


def test_a_gap_that_is_replayed_leaves_the_book_whole(relay):
    relay.publish(depth([("1", "1")], snapshot=True))
    relay.publish(Gap(of="depth", symbol="A", refill="replay", reason="reconnect"))
    assert relay.client().subscribe("depth.x.A").seqs == [2]


def test_a_merged_channel_begins_with_the_book_of_each_provider(relay):
    relay.publish(depth([("1", "1")], snapshot=True), "x")
    relay.publish(depth([("2", "1")], snapshot=True), "y")
    client = relay.client()
    got = client.subscribe("depth.all.A").of("depth")
    assert [(m["data"]["provider"], m["data"]["depth"]["bids"]) for m in got] == [
        ("x", [["1", "1"]]),
        ("y", [["2", "1"]]),
    ]
    relay.publish(depth([("3", "1")]), "y")
    assert client.take().seqs == [1]


def test_a_slow_subscriber_gets_one_fresh_snapshot_for_dropped_deltas(relay_of):
    relay = relay_of(outbox=OutboxLimits(messages=3))
    client = relay.client()
    client.subscribe("depth.x.A")
    relay.publish(depth([("1", "1")], snapshot=True))
    assert client.take().seqs == [1]
    client.slow = True
    for price in range(2, 12):
        relay.publish(depth([(f"{price}", "1")]))
        client.take()
    client.slow = False
    (snapshot,) = client.take()
    relay.publish(depth([("12", "1")]))
    assert snapshot["data"]["seq"] == 11
    assert [price for price, _ in snapshot["data"]["depth"]["bids"]] == [f"{price}" for price in range(11, 0, -1)]
    assert client.take().seqs == [12]


def test_a_slow_subscriber_gets_a_gap_before_the_snapshot_that_repairs_it(relay_of):
    relay = relay_of(outbox=OutboxLimits(messages=2))
    client = relay.client()
    client.subscribe("depth.x.A")
    relay.publish(depth([("1", "1")], snapshot=True))
    client.take()
    client.slow = True
    for event in (
        depth([("2", "1")]),
        Gap(of="depth", symbol="A", refill="snapshot", reason="reconnect"),
        depth([("3", "1")], snapshot=True),
        depth([("4", "1")]),
    ):
        relay.publish(event)
        client.take()
    client.slow = False
    assert [(m["event"], m["data"]["seq"]) for m in client.take()] == [("gap", 3), ("depth", 5)]


def test_without_a_book_a_slow_subscriber_gets_a_gap_of_its_own_under_the_newest_number(relay_of):
    relay = relay_of(outbox=OutboxLimits(messages=2))
    client = relay.client()
    client.subscribe("depth.x.A")
    relay.publish(depth([("1", "1")], snapshot=True))
    client.take()
    client.slow = True
    for price in ("2", "3", "4"):
        relay.publish(depth([(price, "1")]))
        client.take()
    relay.publish(Gap(of="depth", symbol="A", refill="snapshot", reason="reconnect"))
    client.take()
    client.slow = False
    both = [message["data"] for message in client.take()]
    assert [(data["seq"], data["reason"]) for data in both] == [(5, "reconnect"), (5, "slow_subscriber")]
    assert (both[1]["from"], both[1]["to"]) == (2, 4)
    view = ChannelView("depth.x.A", position=ResumePosition("e", 1))
    view.take({"type": "staleness", "seq": 2})
    for data in both:
        view.take(data)
    assert view.problems == []


@given(
    st.lists(
        st.one_of(
            st.builds(depth, levels, levels, snapshot=st.sampled_from([False, False, False, True])),
            st.sampled_from(["slow", "fast", "leave", "return", "begin", "part", "gap", "stale"]),
        ),
        max_size=40,
    ),
    st.integers(1, 6),
)
def test_whatever_happens_a_subscriber_ends_with_the_book_and_numbers_never_run_back(relay_of, steps, room):
    relay = relay_of(outbox=OutboxLimits(messages=room))
    client, theirs, truth, last = relay.client(), DepthBook(), DepthBook(), 0
    client.subscribe("depth.x.A")

    def read(messages):
        nonlocal last
        for message in messages.of("depth", "gap", "staleness"):
            data = message["data"]
            assert data["seq"] >= last
            if data["seq"] == last:  # only what stands for lost depth has the number of the event before
                assert data["reason"] == "slow_subscriber" if data["type"] == "gap" else data["depth"]["snapshot"]
            last = data["seq"]
            if data["type"] == "gap":
                theirs.invalidate()
            elif data["type"] == "depth":
                theirs.apply(Depth(**data["depth"]), STAMP)

    for step in [depth([("1", "1")], snapshot=True), *steps, "fast", "return", *["part"] * 5]:
        match step:
            case "slow" | "fast":
                client.slow = step == "slow"
            case "leave" if "depth.x.A" in client.session.connection.channels:
                read(client.unsubscribe("depth.x.A"))
            case "return" if "depth.x.A" not in client.session.connection.channels:
                theirs, last = DepthBook(), 0
                read(client.subscribe("depth.x.A"))
            case "begin" if "depth.x.A" not in client.session.connection.channels:
                theirs, last = DepthBook(), 0
                client.begin("pusher:subscribe", {"channel": "depth.x.A"})
            case "part":
                client.session.proceed(relay.now)
            case "gap":
                relay.publish(Gap(of="depth", symbol="A", refill="snapshot", reason="test"))
                truth.invalidate()
            case "stale":
                relay.publish(Staleness(event="STALE", symbols=["A"], of="depth", reason="test"))
            case Depth():
                relay.publish(step)
                truth.apply(step, STAMP)
        read(client.take())
    assert client.outbox.closing is not None or snapshot_of(theirs) == snapshot_of(truth)


def test_a_slow_subscriber_of_a_merged_channel_gets_each_providers_snapshot(relay_of):
    relay = relay_of(outbox=OutboxLimits(messages=1))
    client = relay.client()
    client.subscribe("depth.all.A")
    client.slow = True
    for provider in ("x", "y"):
        relay.publish(depth([("1", "1")], snapshot=True), provider)
        client.take()
    client.slow = False
    assert sorted((m["data"]["provider"], m["data"]["seq"]) for m in client.take()) == [("x", 2), ("y", 2)]
