"""A subscriber that resumes at another relay, which may be behind the one where it was: nothing is told twice."""

from itertools import count

import pytest

from relay.cluster.log import EndOfLog, LogEntry
from relay.cluster.topics import ProviderTopics, ReplicatedLog
from relay.hub.app import LOOK, UNREAD_WITHIN
from relay.model.channels import Stream, Topic
from relay.model.events import Quote, Trade
from relay.pusher.messages import ResumePosition
from relay.store.memory import MemoryStore

ACCOUNT, QUOTES = "private-account.x.demo", "quote.x.A"


class Node:
    """One relay of several; `log` is what all of them read."""

    def __init__(self, relay_of, name, log, *, leads=False, loaded=True):
        ids = count(1)
        self.log: list[LogEntry] = log
        self.at = 0
        self.loaded = loaded
        self.end: EndOfLog[int] = EndOfLog(lambda end: self.loaded and self.at >= end)
        self.topics = ProviderTopics(
            "x",
            append=lambda _, entry: self.log.append(entry),
            leading=lambda: leads,
            is_loaded=lambda: self.loaded,
            read_on=self.end.read_on,
            clock=lambda: self.relay.now,
            at=lambda: "2025-01-15T10:30:00.120Z",
            epochs=lambda: f"{name}-{next(ids)}",
        )
        if loaded:
            self.topics.epoch = "e"
        self.relay = relay_of(
            epoch=name,
            pinned=[Stream("x", Topic(kind="account", account="demo")), Stream("x", Topic(kind="quote", symbol="A"))],
            new_log=lambda key: None if ".all." in key else ReplicatedLog(MemoryStore(), key, self.topics),
        )
        self.topics.attach(self.relay.hub)

    def read(self, to=None):
        """Read the log up to a place."""
        end = len(self.log) if to is None else to
        for entry in self.log[self.at : end]:
            self.topics.publish(entry)
        self.at = end

    def answered(self):
        """The store says how far the log goes."""
        self.end.answer(self.end.asked, len(self.log))

    def fill(self, number):
        trade = Trade(id=f"f{number}", symbol="A", side="BUY", quantity="1", price="1", order_id="o")
        self.relay.publish(trade, account="demo")

    def begins(self, channel, **more):
        client = self.relay.client()
        client.begin("pusher:subscribe", client.signed(channel, **more))
        return client

    def goes_on(self, client):
        """Return the frames that a subscriber is sent after a moment."""
        self.relay.now += LOOK
        client.session.proceed(self.relay.now)
        return client.take()


@pytest.fixture
def log():
    return []


@pytest.fixture
def owner(relay_of, log):
    node = Node(relay_of, "owner", log, leads=True)
    for number in (1, 2, 3):
        node.fill(number)
    node.read()
    return node


@pytest.fixture
def ahead(relay_of, log, owner):
    """A relay that has read everything."""
    node = Node(relay_of, "ahead", log)
    node.read()
    return node


@pytest.fixture
def behind(relay_of, log, owner):
    """A relay that has read only the first fill."""
    node = Node(relay_of, "behind", log)
    node.read(1)
    return node


def position_at(node, channel=ACCOUNT):
    client = node.begins(channel, ids=True)
    told = client.take()
    position = (told.of("subscription_succeeded", "tickrelay:position"))[-1]["data"]
    return {"epoch": position["epoch"], "seq": position["seq"]}


def test_fills_are_not_told_again_by_a_relay_that_is_behind(ahead, behind):
    client = behind.begins(ACCOUNT, resume=position_at(ahead))
    assert client.take() == []
    behind.answered()
    behind.read(2)
    assert behind.goes_on(client) == []
    behind.read()
    told = behind.goes_on(client)
    assert told.names == ["subscription_succeeded", "tickrelay:resume_succeeded", "staleness"]
    behind.fill(4)  # by whomever: it appends
    assert client.take().of("trade") == []


def test_events_behind_the_position_follow_once_the_relay_has_read_them(owner, ahead, behind):
    position = position_at(ahead)
    owner.fill(4)
    owner.read()
    client = behind.begins(ACCOUNT, resume=position)
    behind.answered()
    behind.read()
    assert behind.goes_on(client).of("trade").seqs == [4]


def test_an_end_that_was_asked_for_earlier_is_not_enough(owner, ahead, behind):
    behind.begins(ACCOUNT, resume=position_at(ahead))
    asked = behind.end.asked
    owner.fill(4)
    owner.read()
    ahead.read()
    client = behind.begins(ACCOUNT, resume=position_at(ahead))
    behind.end.answer(asked, 3)
    behind.read(3)
    assert behind.goes_on(client) == []
    behind.answered()
    behind.read()
    assert behind.goes_on(client).of("tickrelay:resume_succeeded")


def test_a_position_that_is_in_no_log_is_refused_once_the_log_is_read(ahead, behind):
    client = behind.begins(ACCOUNT, resume={"epoch": "e", "seq": 9})
    assert client.take() == []
    behind.answered()
    behind.read()
    assert behind.goes_on(client).of("tickrelay:resume_failed")[0]["data"]["reason"] == "position_ahead"


def test_an_epoch_that_has_not_been_read_yet_is_waited_for(relay_of, log, owner, ahead, behind):
    next_owner = Node(relay_of, "next", log, leads=True)
    next_owner.read()
    for _, gap in next_owner.topics.take_over(new_epochs=True):
        log.append(gap)
    next_owner.read()
    client = behind.begins(ACCOUNT, resume=position_at(next_owner))
    assert client.take() == []
    behind.answered()
    behind.read()
    assert behind.goes_on(client).of("tickrelay:resume_succeeded")


def test_a_relay_that_does_not_find_out_sends_the_subscriber_to_another_one(ahead, behind):
    client = behind.begins(ACCOUNT, resume=position_at(ahead))
    behind.relay.now += UNREAD_WITHIN
    assert (behind.goes_on(client), client.close_code) == ([], 4200)
    client.gone()
    assert behind.relay.hub.occupied("1") == 0


def test_a_relay_that_has_read_nothing_yet_tells_no_history_as_news(relay_of, log, ahead):
    late = Node(relay_of, "late", log, loaded=False)
    resuming, new = late.begins(ACCOUNT, resume=position_at(ahead)), late.begins(ACCOUNT)
    late.answered()
    assert (late.goes_on(resuming), late.goes_on(new)) == ([], [])
    late.topics.adopt("e", {}, {})
    late.read()
    late.loaded = True
    assert late.goes_on(resuming).names == ["subscription_succeeded", "tickrelay:resume_succeeded", "staleness"]
    assert late.goes_on(new).names == ["subscription_succeeded"]


def test_who_subscribed_before_a_relay_could_ask_is_sent_away_when_it_can(relay_of, log, owner):
    late = Node(relay_of, "late", log, loaded=False)
    account, quotes = late.begins(ACCOUNT), late.begins(QUOTES)
    late.relay.now += UNREAD_WITHIN
    assert late.goes_on(account).names == ["subscription_succeeded"]
    assert late.goes_on(quotes).names == ["subscription_succeeded"]
    late.read()
    assert (account.take().of("trade"), account.close_code) == ([], 4200)
    assert (quotes.take(), quotes.close_code) == ([], None), "nothing was published there"


@pytest.mark.parametrize("ended", ["left", "gone", "closed", "asked for more"])
def test_a_subscription_that_waits_is_given_up(ahead, behind, ended):
    client = behind.begins(ACCOUNT, resume=position_at(ahead))
    match ended:
        case "left":
            behind.relay.hub.recheck(behind.relay.now)  # its secret is valid: it stays
            assert client.session.busy
            client.begin("pusher:unsubscribe", {"channel": ACCOUNT})
        case "gone":
            client.gone()
        case "closed":
            behind.relay.hub.shutdown(behind.relay.now)
        case "asked for more":
            client.begin("pusher:subscribe", {"channel": QUOTES})
    assert (client.take(), client.session.busy) == ([], False)
    behind.answered()
    behind.read()
    client.session.proceed(behind.relay.now)
    assert client.take() == []
    assert behind.relay.hub.occupied("1") == 0


def test_the_history_of_a_relay_that_is_behind_is_waited_for(ahead, behind):
    position = position_at(ahead)
    after = ResumePosition(position["epoch"], position["seq"])
    is_read = behind.relay.hub.read_first("1", ACCOUNT, after, behind.relay.now)
    assert is_read is not None
    behind.answered()
    assert not is_read()
    behind.read()
    assert is_read()
    assert behind.relay.hub.read_first("1", ACCOUNT, after, behind.relay.now) is None
    assert behind.relay.hub.history("1", ACCOUNT, after, 10, behind.relay.now).entries == []


def test_a_market_stream_is_no_exception(owner, ahead, behind):
    owner.relay.publish(Quote(symbol="A", bid="1"))
    ahead.read()
    client = behind.begins(QUOTES, resume=position_at(ahead, "cache-" + QUOTES))
    assert client.take() == []
