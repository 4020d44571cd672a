"""Streams: their channel names, the interest in them, and the bounded sweep over their topics."""

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.hub.history import HistoryLimits
from relay.hub.streams import Streams, Sweep, claims_stream, stream_of
from relay.model.channels import PREFIXES, Stream, Topic
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
    streams = Streams(lambda: f"e{next(numbers)}", HistoryLimits(), want=wanted.append, unwant=wanted.remove)
    held = []
    for name in names:
        stream = Stream(name, Topic(kind="quote", symbol="A"))
        if len(held) > 3 and stream in held:
            held.remove(stream)
            streams.remove_channel(stream)
        else:
            held.append(stream)
            streams.add_channel(stream)
        assert sorted(s.provider for s in wanted) == sorted({s.provider for s in held})
    for stream in held:
        streams.remove_channel(stream)
    assert not wanted


def test_a_sweep_visits_every_key_in_bounded_parts():
    keys, sweep = set(range(10)), Sweep()
    parts = [sweep.next(keys, 4) for _ in range(3)]
    assert [len(part) for part in parts] == [4, 4, 2]
    assert {key for part in parts for key in part} == keys
    assert sweep.next(set(), 4) == []


@pytest.mark.parametrize("prefix", ["", *PREFIXES])
def test_a_name_that_begins_like_a_stream_is_reserved(prefix):
    assert claims_stream(f"{prefix}quote.x.A")
    assert claims_stream(f"{prefix}candle.")
    assert not claims_stream(f"{prefix}room")


def test_half_a_character_is_no_symbol():
    with pytest.raises(ProtocolError, match="UTF-8") as refused:
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
