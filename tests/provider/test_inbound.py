"""Every message is published, deduplicated, or one Unknown, and the counters add up."""

import pytest

from relay.provider.session_state import SAMPLE_SIZE, SAMPLES


@pytest.fixture
def r(rig):
    r = rig(credentials={})
    r.up(0)
    r.want("quote:A")
    r.fresh()
    return r


def test_a_message_that_raises_is_one_unknown_and_publishes_none_of_its_events(r):
    outputs = r.say(["quote", "A", "1"], "raise", at=1)
    (sampled,) = outputs
    assert sampled.raw == '[["quote","A","1"],"raise"]'
    assert sampled.why.startswith("KeyError: 'no such member' (at ")
    assert r.fresh() == []
    assert r.counters()["unknown"] == 1
    r.say(["quote", "A", "2"], at=2)
    assert r.kinds() == ["quote"]
    assert r.add_up()


@pytest.mark.parametrize("raw", ["", "{", "[" * 5000, "\ud800", "null", "1", '"\\u0000"'])
def test_nothing_a_provider_says_ends_the_session(r, raw):
    r.machine.receive(raw, r.moment(1))
    assert r.counters()["unknown"] >= 1 or raw == '"\\u0000"'
    r.say(["quote", "A", "1"], at=2)
    assert "quote" in r.kinds()


def test_samples_are_bounded_cut_and_redacted(rig):
    r = rig(credentials={"key": "s3cret"})
    r.up(0)
    for _ in range(SAMPLES + 5):
        r.say(["what", "s3cret", "x" * 9000])
    samples = r.counters()["samples"]
    assert len(samples) == SAMPLES
    assert len(samples[0]["raw"]) == SAMPLE_SIZE
    assert "s3cret" not in str(samples)


def test_too_many_unknown_messages_are_an_error_event_once_per_window(r):
    for _ in range(300):
        r.say(["quote", "A", "1"])
    r.say(["what"])
    r.say(["what"])
    assert [event for event in r.fresh() if event.kind == "error"] == []
    for _ in range(5):
        r.say(["what"])
    (error,) = [event for event in r.fresh() if event.kind == "error"]
    assert error.code == "unknown_messages"


def test_fills_are_published_once(r):
    r.say(["fill", "f1"], ["fill", "f2"], ["fill", "f1"], at=1)
    assert [event.id for event in r.fresh()] == ["f1", "f2"]
    assert r.counters()["deduped"] == 1
    assert r.add_up()


def test_the_stream_may_repeat_an_order_state(r):
    r.say(["order", "1", "OPEN"], ["order", "1", "OPEN"], at=1)
    assert [(event.id, event.reconciled) for event in r.fresh()] == [("1", None), ("1", None)]


def test_one_stamp_per_message(r):
    r.say(["quote", "A", "1"], ["quote", "A", "2"], at=1)
    assert r.stamps[-1] is r.stamps[-2]
    assert (r.stamps[-1].account, r.stamps[-1].received_at) == ("main", "2023-11-14T22:13:21.000000Z")


def test_what_is_no_event_and_no_signal_is_an_unknown(rig):
    class Sloppy(rig.Venue):
        def decode(self, message):
            return ["just text", None]

    r = rig(adapter=Sloppy)
    r.up(0)
    r.say("x")
    assert [sample["why"] for sample in r.counters()["samples"]] == [
        "the adapter yielded a str",
        "the adapter yielded a NoneType",
    ]
