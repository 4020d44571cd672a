"""Streams: their channel names, the interest in them, and the bounded sweep over their topics."""

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.hub.history import HistoryLimits
from relay.hub.streams import IdleTopics, Streams, claims_stream, stream_of
from relay.hub.topic import TopicState
from relay.model.channels import PREFIXES, Asker, Stream, Topic
from relay.pusher.messages import ProtocolError


def test_every_topic_begins_an_epoch_of_its_own(relay_of):
    relay = relay_of(history=HistoryLimits(age=1))
    client = relay.client()
    epochs = set()
    for _ in range(3):
        client.subscribe("quote.x.A")
        (topic,) = relay.hub.snapshot()["streams"]
        epochs.add(topic["epoch"])
        client.unsubscribe("quote.x.A")
        relay.tick(2)
        assert relay.hub.snapshot()["streams"] == []
    assert len(epochs) == 3


@given(st.lists(st.sampled_from("ab"), max_size=30))
def test_a_stream_is_wanted_exactly_while_it_has_channels(names):
    wanted, numbers = [], count()
    streams = Streams(lambda: f"e{next(numbers)}", HistoryLimits(), want=lambda stream, by: wanted.append(stream) or (),
                      want_too=lambda stream, by: None, unwant=wanted.remove)  # fmt: skip
    held = []
    for name in names:
        stream = Stream(name, Topic(kind="quote", symbol="A"))
        if len(held) > 3 and stream in held:
            held.remove(stream)
            streams.remove_channel(stream)
        else:
            held.append(stream)
            streams.add_channel(stream, Asker("1", "7.1"))
        assert sorted(s.provider for s in wanted) == sorted({s.provider for s in held})
    for stream in held:
        streams.remove_channel(stream)
    assert not wanted


def idle_topic(now: float = 0.0, events: int = 0) -> TopicState:
    topic = TopicState(None, "e", HistoryLimits(age=10), now)
    for _ in range(events):
        topic.trigger(b"", b"x" * 100, "id", now, cached=False, but=None)
    return topic


def test_idle_topics_are_bounded_and_those_without_events_go_first():
    idle = IdleTopics(HistoryLimits(idle_topics=3))
    assert idle.put("used", idle_topic(events=1)) == []
    assert idle.put("a", idle_topic()) == idle.put("b", idle_topic()) == []
    assert idle.put("c", idle_topic()) == ["a"]
    assert idle.put("used too", idle_topic(events=1)) == ["b"]
    assert idle.put("used last", idle_topic(events=1)) == ["c"]
    assert idle.put("d", idle_topic()) == ["d"]  # what was published is worth more than a name
    assert idle.put("used, newest", idle_topic(events=1)) == ["used"]
    assert len(idle) == 3


def test_idle_topics_are_bounded_in_bytes():
    idle = IdleTopics(HistoryLimits(idle_bytes=3 * 2048 + 100))
    gone = [name for each in range(10) for name in idle.put(str(each), idle_topic())]
    assert (gone, len(idle)) == (["0", "1", "2", "3", "4", "5", "6"], 3)


def test_a_topic_that_had_its_first_event_while_it_was_idle_is_not_an_empty_one():
    idle, quiet = IdleTopics(HistoryLimits(idle_topics=2)), idle_topic()
    idle.put("quiet", quiet)
    idle.put("empty", idle_topic())
    quiet.trigger(b"", b"x", "id", 1.0, cached=False, but=None)
    assert idle.put("new", idle_topic()) == ["empty"]


def test_expired_topics_are_found_in_bounded_parts():
    idle = IdleTopics(HistoryLimits())
    for each in range(10):
        idle.put(each, idle_topic(now=each))
    assert idle.take_expired(14.5, 4) == [0, 1, 2, 3]
    assert idle.take_expired(14.5, 4) == [4]
    assert idle.take_expired(30, 10) == [8, 9, 5, 6, 7]
    assert len(idle) == 0


@pytest.mark.parametrize("prefix", ["", *PREFIXES])
def test_a_name_that_begins_like_a_stream_is_reserved(prefix):
    assert claims_stream(f"{prefix}quote.x.A")
    assert claims_stream(f"{prefix}candle.")
    assert not claims_stream(f"{prefix}room")


def test_half_a_character_is_no_symbol():
    with pytest.raises(ProtocolError, match="not valid Unicode") as refused:
        stream_of("quote.x.=ED=A0=80", lambda stream: None, lambda stream: False)
    assert refused.value.status == 404


@given(st.text("quotecandlestatuscaccount.x-=A1m", max_size=30))
def test_a_name_is_a_stream_an_applications_or_refused(name):
    try:
        stream = stream_of(name, lambda stream: None, lambda stream: False)
    except ProtocolError as refused:
        assert refused.status == 404  # noqa: PT017 (whether it is refused is the question)
    else:
        assert (stream is not None) == claims_stream(name)
