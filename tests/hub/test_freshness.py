"""Relays of a cluster tell of data that one of them cannot know to be fresh."""

from itertools import count

import pytest

from relay.cluster.log import LogEntry
from relay.cluster.topics import ProviderTopics, ReplicatedLog
from relay.hub.log import STATES
from relay.model.channels import Stream, Topic
from relay.model.events import Account, Order, Quote, Staleness
from relay.store.memory import MemoryStore

QUOTES, MERGED, ACCOUNT = "quote.x.A", "quote.all.A", "private-account.x.demo"
#: Told by the provider's owner, and numbered.
STALE = Staleness(event="STALE", of="quote", symbols=["A"], reason="silent")
FRESH = Staleness(event="FRESH", of="quote", symbols=["A"])


class Node:
    """A relay of a cluster, and its topics of the provider x; what it appends is for the others to `read`."""

    def __init__(self, relay_of, name, *, leads=False):
        ids = count(1)
        self.log: list[LogEntry] = []
        self.topics = ProviderTopics(
            "x",
            append=lambda _, entry: self.log.append(entry),
            leading=lambda: leads,
            is_loaded=lambda: True,
            read_on=lambda: lambda: True,
            clock=lambda: self.relay.now,
            at=lambda: "2025-01-15T10:30:00.120Z",
            epochs=lambda: f"{name}-{next(ids)}",
        )
        self.topics.epoch = "e"
        self.relay = relay_of(
            epoch=name,
            pinned=[Stream("x", Topic(kind="quote", symbol="A"))],
            new_log=lambda key: None if ".all." in key else ReplicatedLog(MemoryStore(), key, self.topics),
        )
        self.topics.attach(self.relay.hub)

    def read(self, owner, *, to=None):
        for entry in owner.log[:to]:
            self.topics.publish(entry)

    def confirm(self):
        """Publish what waits for the log."""
        self.read(self)

    def joins(self, channel, **more):
        client = self.relay.client()
        return client, client.subscribe(channel, **more)


@pytest.fixture
def owner(relay_of):
    node = Node(relay_of, "owner", leads=True)
    node.relay.publish(Quote(symbol="A", bid="1"))
    return node


@pytest.fixture
def nodes(relay_of, owner):
    """Two more, which have read what the owner wrote."""
    found = [Node(relay_of, "a"), Node(relay_of, "b")]
    for node in found:
        node.read(owner)
    return found


def told(messages):
    return [(m["data"]["event"], m["data"].get("reason"), m["data"]["seq"]) for m in messages.of("staleness")]


def at(messages):
    return messages.of("tickrelay:position")[-1]["data"]


def test_who_was_told_stale_by_a_relay_that_dies_is_told_fresh_where_it_resumes(owner, nodes):
    one, other = nodes
    client, got = one.joins("cache-" + QUOTES, ids=True)
    one.topics.suspect("no Redis")
    assert told(client.take()) == [("STALE", "no Redis", 1)]
    _, back = other.joins("cache-" + QUOTES, resume=at(got))
    assert back.names == ["subscription_succeeded", "tickrelay:resume_succeeded", "staleness"]
    assert told(back) == [("FRESH", None, 1)]


def test_who_is_away_when_a_relay_knows_again_is_told_when_it_comes_back(owner, nodes):
    one, _ = nodes
    client, got = one.joins("cache-" + QUOTES, ids=True)
    one.topics.suspect("no Redis")
    client.gone()
    one.topics.suspect("")
    assert told(one.joins(QUOTES, resume=at(got))[1]) == [("FRESH", None, 1)]


def test_who_resumes_at_a_relay_that_does_not_know_is_told_stale(owner, nodes):
    one, other = nodes
    _, got = one.joins("cache-" + QUOTES, ids=True)
    other.topics.suspect("no Redis")
    back, answer = other.joins(QUOTES, resume=at(got))
    assert told(answer) == [("STALE", "no Redis", 1)]
    other.topics.suspect("")
    assert told(back.take()) == [("FRESH", None, 1)]


def test_what_the_owner_told_is_told_again_under_the_newest_number(owner, nodes):
    one, other = nodes
    _, got = one.joins("cache-" + QUOTES, ids=True)
    owner.relay.publish(STALE)
    owner.relay.publish(Quote(symbol="A", bid="2"))
    other.read(owner)
    _, back = other.joins(QUOTES, resume=at(got))
    first, again = back.of("staleness")
    assert told(back) == [("STALE", "silent", 2), ("STALE", "silent", 3)]
    assert first["data"]["id"] != again["data"]["id"], "who knows the first one's id may have been told FRESH since"


@pytest.mark.parametrize("now", [STALE, FRESH])
def test_what_the_log_says_meanwhile_stands(owner, nodes, now):
    one, _ = nodes
    if now is FRESH:
        owner.relay.publish(STALE)
        one.read(owner)
    client, _ = one.joins(QUOTES)
    one.topics.suspect("no Redis")
    one.topics.suspect("no node has the lease")
    owner.relay.publish(now)
    one.read(owner)
    one.topics.suspect("")
    assert told(client.take())[-1][0] == now.event
    assert [event for event, *_ in told(one.joins(QUOTES)[1])] == (["STALE"] if now is STALE else [])


def test_a_warning_from_before_is_told_again_when_the_relay_knows_again(owner, nodes):
    one, _ = nodes
    owner.relay.publish(STALE)
    one.read(owner)
    client, _ = one.joins(QUOTES)
    one.topics.suspect("no Redis")
    one.topics.suspect("")
    assert [(event, reason) for event, reason, _ in told(client.take())] == [("STALE", "no Redis"), ("STALE", "silent")]


def test_a_merged_channel_is_told_of_its_provider_too(owner, nodes):
    one, _ = nodes
    client, _ = one.joins(MERGED)
    one.topics.suspect("no Redis")
    one.topics.suspect("")
    assert [(event, reason) for event, reason, _ in told(client.take())] == [("STALE", "no Redis"), ("FRESH", None)]


def test_a_channel_that_begins_while_nobody_knows_is_told_so(nodes):
    one, _ = nodes
    one.topics.suspect("no Redis")
    client, got = one.joins("quote.x.B")
    assert told(got) == [("STALE", "no Redis", 0)]
    one.topics.suspect("")
    assert told(client.take()) == [("FRESH", None, 0)]


def test_an_accounts_states_are_the_same_at_every_node(relay_of, owner):
    """An owner's session leaves its own account out of what it says; what others read names it."""
    order = {"id": "o", "symbol": "A", "side": "BUY", "order_type": "LIMIT", "quantity": "1"}
    owner.relay.publish(Order(event="ORDER_CREATED", status="OPEN", **order), account="demo")
    owner.confirm()
    follower = Node(relay_of, "late")
    topic = next(topic for topic in owner.relay.hub.topics_of("x") if topic.kind == "account")
    follower.topics.adopt("e", {}, {STATES: [(row.key, row.value) for row in topic.states()]})
    follower.read(owner)
    assert follower.joins(ACCOUNT)[1].of("order").seqs == [1]
    owner.relay.publish(Order(event="ORDER_FILLED", status="FILLED", **order), account="demo")
    owner.confirm()
    follower.read(owner)
    assert follower.joins(ACCOUNT)[1].of("order") == [], "a filled order is not told as an open one"


def test_a_warning_does_not_carry_a_subscriber_past_an_event_that_is_held_back(owner):
    client, _ = owner.joins(ACCOUNT, ids=True)
    owner.relay.publish(Account(account="demo", event="METRICS_UPDATED", balance="1"), account="demo")
    assert len(owner.log) == 2, "it waits for the log"
    owner.topics.suspect("no Redis")
    assert told(client.take()) == [("STALE", "no Redis", 0)]
