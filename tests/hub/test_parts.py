"""The small parts on their own: the seam of several relays, rates, rounds, names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.hub.names import claims_stream, stream_of
from relay.hub.sequence import LocalInterest, LocalSequencer
from relay.hub.sweep import Sweep
from relay.model.channels import PREFIXES, Stream, Topic
from relay.model.events import Quote
from relay.pusher.errors import ProtocolError

STREAM = Stream("x", Topic(kind="quote", symbol="A"))


class Elsewhere:
    """Numbers and interest as a store outside this process would keep them."""

    def __init__(self):
        self.epoch = "shared"
        self.start = 40
        self.numbers = iter(range(41, 100))
        self.calls = []

    def open(self, topic):
        self.calls.append(("open", topic))
        return self

    def next(self):
        return next(self.numbers)

    def join(self, stream):
        self.calls.append(("join", stream))

    def leave(self, stream):
        self.calls.append(("leave", stream))


def test_the_hub_takes_numbers_and_interest_from_elsewhere(relay_of):
    elsewhere = Elsewhere()
    relay = relay_of(sequencer=elsewhere, interest=elsewhere)
    client = relay.client()
    client.subscribe("quote.x.A", ids=True)
    relay.publish(Quote(symbol="A", bid="1"))
    client.unsubscribe("quote.x.A")
    assert elsewhere.calls == [("open", "quote.x.A"), ("join", STREAM), ("leave", STREAM)]
    assert relay.wanted == []


def test_a_topic_resumes_under_numbers_from_elsewhere(relay_of):
    elsewhere = Elsewhere()
    relay = relay_of(sequencer=elsewhere, interest=elsewhere)
    client = relay.client()
    client.subscribe("quote.x.A")
    for _ in range(3):
        relay.publish(Quote(symbol="A", bid="1"))
    assert client.take().seqs == [41, 42, 43]
    got = relay.client().subscribe("quote.x.A", resume={"epoch": "shared", "seq": 41})
    assert got.of("quote").seqs == [42, 43]


def test_every_topic_begins_an_epoch_of_its_own():
    sequencer = LocalSequencer("run")
    first, again = sequencer.open("a"), sequencer.open("a")
    assert first.epoch != again.epoch
    assert [first.next(), first.next(), again.next()] == [1, 2, 1]


@given(st.lists(st.sampled_from("ab"), max_size=30))
def test_interest_is_wanted_exactly_while_somebody_has_it(names):
    wanted = []
    interest = LocalInterest(wanted.append, wanted.remove)
    held = []
    for name in names:
        stream = Stream(name, Topic(kind="quote", symbol="A"))
        if len(held) > 3 and stream in held:
            held.remove(stream)
            interest.leave(stream)
        else:
            held.append(stream)
            interest.join(stream)
        assert sorted(s.provider for s in wanted) == sorted({s.provider for s in held})
    for stream in held:
        interest.leave(stream)
    assert not wanted
    assert not len(interest)


def test_a_round_comes_to_everything_in_bounded_parts():
    keys, going = set(range(10)), Sweep()
    parts = [going.next(keys, 4) for _ in range(3)]
    assert [len(part) for part in parts] == [4, 4, 2]
    assert {key for part in parts for key in part} == keys
    assert going.next(set(), 4) == []


@pytest.mark.parametrize("prefix", ["", *PREFIXES])
def test_a_name_that_begins_like_a_stream_is_in_the_relays_hands(prefix):
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
