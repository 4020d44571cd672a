"""No loss over a reconnect: resume, rewind, cached values, and the order of it all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.hub.encoding import HistoryEntry
from relay.hub.history import EventHistory, HistoryLimits, Missed
from relay.hub.outbox import Policy
from relay.model.events import Depth, Order, PublicTrade, Quote, Staleness
from relay.pusher.messages import ResumePosition


def quote(bid="1", symbol="A"):
    return Quote(symbol=symbol, bid=bid)


def position(messages):
    """The position a subscription that asked for ids was told."""
    data = messages[0]["data"]
    return {"epoch": data["epoch"], "seq": data["seq"]}


def entry(seq, at=0.0, size=10):
    return HistoryEntry(seq, f"id-{seq}", at, b"", b"x" * size, Policy.GAP)


# History -------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 40)), max_size=30), st.integers(0, 31), st.floats(0, 10))
def test_history_returns_exactly_the_events_behind_a_position_or_why_it_cannot(published, after, later):
    limits = HistoryLimits(events=8, age=10, bytes=100)
    history, now, all_of_them = EventHistory("e", limits), 0.0, []
    for seq, (wait, size) in enumerate(published, start=1):
        now += wait
        all_of_them.append(entry(seq, now, size))
        history.append(all_of_them[-1])
    now += later
    kept = history.newest(len(published), now)
    assert kept == all_of_them[len(published) - len(kept) :]
    assert len(kept) <= limits.events
    assert sum(len(one.tail) for one in kept) <= limits.bytes
    assert all(one.at + limits.age > now for one in kept)
    if len(published) - len(kept) <= after <= len(published):
        assert history.after(ResumePosition("e", after), now) == all_of_them[after:]
        return
    with pytest.raises(Missed) as lost:
        history.after(ResumePosition("e", after), now)
    assert lost.value.reason == ("position_ahead" if after > len(published) else "position_expired")
    assert lost.value.position == ResumePosition("e", len(published))


def test_history_that_skips_is_at_the_new_position_with_no_events():
    history = EventHistory("e", HistoryLimits())
    history.append(entry(1))
    history.skip(2)
    history.append(entry(3))
    assert [one.seq for one in history.after(ResumePosition("e", 2), 0.0)] == [3]
    with pytest.raises(Missed, match="position_expired"):
        history.after(ResumePosition("e", 1), 0.0)


def test_history_with_missing_numbers_expires_the_positions_before_them():
    history = EventHistory("e", HistoryLimits())
    history.skip(10)
    assert history.position == ResumePosition("e", 10)
    history.append(entry(11))
    history.append(entry(14))
    assert [one.seq for one in history.after(ResumePosition("e", 13), 0.0)] == [14]
    with pytest.raises(Missed, match="position_expired"):
        history.after(ResumePosition("e", 11), 0.0)


# Subscribing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", ["public_trade.x.A", "private-public_trade.x.A", "public_trade.all.A"])
def test_a_resuming_subscriber_gets_missed_events_in_order_and_once(relay, channel):
    client = relay.client()
    at = position(client.subscribe(channel, ids=True))
    for _ in range(3):
        relay.publish(PublicTrade(symbol="A", price="1", quantity="1"))
    seen = client.take().seqs
    client.gone()
    for _ in range(4):
        relay.publish(PublicTrade(symbol="A", price="1", quantity="1"))
    back = relay.client()
    got = back.subscribe(channel, resume={"epoch": at["epoch"], "seq": seen[-1]})
    relay.publish(PublicTrade(symbol="A", price="1", quantity="1"))
    assert got.names[0] == "subscription_succeeded"
    assert got.names[-1] == "tickrelay:resume_succeeded"
    assert got[-1]["data"] == {"epoch": at["epoch"], "seq": 7, "replayed": 4}
    assert got.of("public_trade").seqs + back.take().seqs == [4, 5, 6, 7, 8]


def test_a_page_that_sees_only_data_can_come_back_to_an_applications_channel(relay):
    client = relay.client()
    client.subscribe("news", ids=True)
    relay.trigger("news", data="one")
    at = client.take()[-1]["data"]
    client.gone()
    relay.trigger("news", data="two")
    got = relay.client().subscribe("news", ids=True, resume=at)
    assert [m["data"] for m in got.of("news")] == ["two"]
    assert got.of("tickrelay:position")[0]["data"] == at | {"seq": 2}


@given(st.lists(st.sampled_from(["publish", "drop", "return"]), max_size=40))
def test_over_any_number_of_reconnects_every_event_arrives_once_in_order(relay_of, steps):
    relay = relay_of()
    client = relay.client()
    at = position(client.subscribe("quote.x.A", ids=True))
    seen, published = [], 0
    for step in [*steps, "return"]:
        if step == "publish":
            relay.publish(quote())
            published += 1
        elif step == "drop" and client is not None:
            seen += client.take().of("quote").seqs
            client.gone()
            client = None
        elif step == "return" and client is None:
            client = relay.client()
            last = {"epoch": at["epoch"], "seq": seen[-1] if seen else at["seq"]}
            seen += client.subscribe("quote.x.A", resume=last).of("quote").seqs
    seen += client.take().of("quote").seqs
    assert seen == list(range(1, published + 1))


def test_a_depth_resume_is_deltas_without_a_snapshot(relay):
    def delta(price, snapshot=False):
        return Depth(symbol="A", bids=[(price, "1")], asks=[], snapshot=snapshot)

    client = relay.client()
    at = position(client.subscribe("depth.x.A", ids=True))
    relay.publish(delta("1", snapshot=True))
    client.gone()
    relay.publish(delta("2"))
    got = relay.client().subscribe("depth.x.A", resume=at | {"seq": 1})
    assert [m["data"]["depth"]["snapshot"] for m in got.of("depth")] == [False]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"epoch": "other"}, "epoch_changed"),
        ({"seq": 9}, "position_ahead"),
        ({"seq": 0}, "position_expired"),
    ],
)
def test_resume_failed_names_the_reason_and_the_position_to_go_on_from(relay_of, change, reason):
    relay = relay_of(history=HistoryLimits(events=2))
    client = relay.client()
    at = position(client.subscribe("cache-quote.x.A", ids=True))
    for number in range(3):
        relay.publish(quote(f"{number}"))
    got = relay.client().subscribe("cache-quote.x.A", resume=at | change)
    assert got.names == ["subscription_succeeded", "tickrelay:resume_failed", "quote", "tickrelay:position"]
    assert got[1]["data"] == {"reason": reason}
    assert got[2]["data"]["quote"]["bid"] == "2"
    assert got[3]["data"] == {"epoch": at["epoch"], "seq": 3}


@pytest.mark.parametrize("asks", [{}, {"rewind": 2}])
@pytest.mark.parametrize("channel", ["quote.x.A", "cache-quote.x.A", "depth.x.A", "private-account.x.a"])
def test_no_position_is_told_before_the_state_it_stands_for(relay, channel, asks):
    """A subscriber that is cut off between the two would resume behind orders, or a book, that it never got."""
    holder = relay.client()
    holder.subscribe(channel)
    relay.publish(quote())
    relay.publish(Depth(symbol="A", bids=[("1", "1")], asks=[], snapshot=True))
    relay.publish(Order(account="a", id="o", event="ORDER_CREATED", status="OPEN", symbol="A", side="BUY"), "x", "a")
    got = relay.client().subscribe(channel, ids=True, **asks)
    told = [m for m in got if "epoch" in (m.get("data") or {})]
    assert [m["event"] for m in told] == [
        "tickrelay:position" if len(got) > 1 else "pusher_internal:subscription_succeeded"
    ]
    assert told == got[-1:]
    state = [m["data"]["seq"] for m in got[1:-1]]
    assert state == ([1] if channel != "quote.x.A" or asks else [])
    assert told[0]["data"]["seq"] == 1


def test_a_warning_that_data_are_stale_is_not_skipped_either(relay):
    relay.client().subscribe("quote.x.A")
    relay.publish(Staleness(of="quote", symbols=["A"], event="STALE", reason="silent"))
    got = relay.client().subscribe("quote.x.A", ids=True)
    assert got.names == ["subscription_succeeded", "staleness", "tickrelay:position"]
    assert got[0]["data"] == {}


def test_without_history_every_resume_fails_and_says_so(relay_of):
    relay = relay_of(history=HistoryLimits(events=0))
    at = position(relay.client().subscribe("quote.x.A", ids=True))
    got = relay.client().subscribe("quote.x.A", resume=at)
    assert got[1]["data"] == {"reason": "history_disabled"}


def test_positions_of_a_forgotten_topic_are_refused_by_its_successor(relay):
    client = relay.client()
    at = position(client.subscribe("news", ids=True))
    relay.trigger("news")
    client.gone()
    relay.tick(2000)
    got = relay.client().subscribe("news", resume=at | {"seq": 1}, ids=True)
    assert got.names == ["subscription_succeeded", "tickrelay:resume_failed"]
    assert got[1]["data"]["reason"] == "epoch_changed"


def test_positions_older_than_the_history_are_expired_not_skipped(relay):
    client = relay.client()
    at = position(client.subscribe("quote.x.A", ids=True))
    client.gone()
    relay.now += 200
    relay.publish(quote())
    relay.now += 200
    relay.publish(quote())
    relay.publish(quote())
    got = relay.client().subscribe("quote.x.A", resume=at)
    assert got[1]["data"]["reason"] == "position_expired"


def test_ids_are_beside_an_applications_data_only_when_requested(relay):
    plain, asking = relay.client(), relay.client()
    assert plain.subscribe("news")[0]["data"] == {}
    assert asking.subscribe("news", ids=True)[0]["data"].keys() == {"epoch", "seq"}
    relay.trigger("news", data="text")
    message = {"event": "news", "channel": "news", "data": "text"}
    assert plain.take() == [message]
    position = {"event": "tickrelay:position", "channel": "news", "data": {"epoch": "run-1", "seq": 1}}
    assert asking.take() == [message | {"id": "run-1", "seq": 1}, position]


def test_an_applications_channel_resumes_and_rewinds(relay):
    client = relay.client()
    at = position(client.subscribe("private-room", ids=True))
    for number in range(3):
        relay.trigger("private-room", data=f"{number}")
    got = relay.client().subscribe("private-room", resume=at | {"seq": 1}, ids=True)
    assert [(m["seq"], m["data"]) for m in got.of("news")] == [(2, "1"), (3, "2")]
    assert "seq" not in got[0]["data"]  # not before what was missed has come
    got = relay.client().subscribe("private-room", rewind=2)
    assert [m["data"] for m in got.of("news")] == ["1", "2"]


def test_a_cache_channel_gives_the_last_server_event_for_its_time(relay_of, app_of):
    relay = relay_of(app_of(cache_ttl=60))
    relay.trigger("cache-news", data="old")
    relay.trigger("cache-news", data="new")
    assert [m.get("data") for m in relay.client().subscribe("cache-news")] == [{}, "new"]
    relay.tick(61)
    assert relay.client().subscribe("cache-news").names == ["subscription_succeeded", "cache_miss"]


def test_a_cache_miss_notifies_the_server_once_until_an_event_is_published(relay):
    clients = [relay.client() for _ in range(3)]
    for client in clients[:2]:
        client.subscribe("cache-news")
    relay.trigger("cache-news")
    clients[2].subscribe("cache-news")
    assert relay.channel_event_names == ["channel_occupied", "cache_miss"]


@pytest.mark.parametrize("channel", ["quote.x.A", "cache-quote.x.A", "quote.all.A", "cache-quote.all.A"])
def test_a_new_subscriber_gets_the_staleness_event(relay, channel):
    relay.publish(quote())
    relay.publish(Staleness(event="STALE", symbols=["A"], of="quote"))
    relay.publish(quote(), "y")
    got = relay.client().subscribe(channel).of("staleness")
    assert [(m["data"]["provider"], m["data"]["event"]) for m in got] == [("x", "STALE")]
    relay.publish(Staleness(event="FRESH", symbols=["A"], of="quote"))
    assert relay.client().subscribe(channel).of("staleness") == []


def test_history_for_the_http_api(relay):
    for number in range(4):
        relay.trigger("room", data=f"{number}")
    page = relay.hub.history("1", "room", None, 2, relay.now)
    assert [event["data"] for event in list(page.events)] == ["2", "3"]
    page = relay.hub.history("1", "room", ResumePosition(page.position.epoch, 1), 2, relay.now)
    assert list(page.events) == [
        {"event": "news", "data": "1", "id": "run-2", "seq": 2},
        {"event": "news", "data": "2", "id": "run-3", "seq": 3},
    ]
    assert (page.more, page.position.seq) == (True, 4)
    with pytest.raises(Missed, match="position_ahead"):
        relay.hub.history("1", "room", ResumePosition(page.position.epoch, 5), 2, relay.now)
