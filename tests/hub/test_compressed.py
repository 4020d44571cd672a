"""Compressed subscribers: the same messages, policies and order as the plain ones beside them, from one compression."""

import math
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.hub import outbox
from relay.hub.outbox import CompressedOutbox, Delivery, Outbox, OutboxLimits, Policy
from relay.model.events import Depth, Order, PublicTrade, Quote
from relay.websocket.frames import encode_close, encode_text
from tests.hub.conftest import frames
from tests.hub.test_outbox import CHANNELS, Books, Kernel, assert_nothing_lost_in_silence, driven, steps

QUOTE = Quote(symbol="A", bid="1.08423", ask="1.08425", bid_size="1000000", ask_size="2000000")


@pytest.fixture
def compressions(monkeypatch):
    """Sizes of the frames that were compressed for deliveries."""
    made = []

    def compressed(data, compress=outbox.compressed):
        made.append(len(data))
        return compress(data)

    monkeypatch.setattr(outbox, "compressed", compressed)
    return made


def test_one_compression_serves_all_compressed_subscribers_of_a_channel(relay, compressions):
    plain = [relay.client() for _ in range(2)]
    compressed = [relay.client(compressed=True) for _ in range(3)]
    for client in plain + compressed:
        client.subscribe("quote.x.A")
        client.bytes = 0
    compressions.clear()
    relay.publish(QUOTE)
    received = [client.take() for client in plain + compressed]
    assert all(messages == received[0] for messages in received)
    assert received[0].names == ["quote"]
    assert len(compressions) == 1
    assert plain[0].bytes == compressions[0]
    assert {client.bytes for client in compressed} == {compressed[0].bytes}
    assert compressed[0].bytes < 0.65 * plain[0].bytes


def test_nothing_is_compressed_for_plain_subscribers(relay, compressions):
    plain, elsewhere = relay.client(), relay.client(compressed=True)
    plain.subscribe("quote.x.A")
    elsewhere.subscribe("quote.x.B")
    compressions.clear()
    relay.publish(QUOTE)
    assert plain.take().names == ["quote"]
    assert elsewhere.take() == []
    assert compressions == []


def test_messages_of_no_channel_are_not_compressed():
    written = []
    outbox = CompressedOutbox(Books())
    outbox.put(Delivery(encode_text(b"x" * 500), "", Policy.CONTROL, 0))
    outbox.close(4200, "later")
    outbox.attach(lambda data: written.append(data) or len(data), [], first=b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    outbox.flush()
    head = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
    assert written == [head + encode_text(b"x" * 500) + encode_close(4200, "later")]


def test_the_limit_in_bytes_counts_compressed_bytes(relay_of):
    """Deliveries that fit compressed are kept where a plain subscriber loses some of them."""
    relay = relay_of(outbox=OutboxLimits(bytes=2000))
    plain, compressed = relay.client(), relay.client(compressed=True)
    for client in (plain, compressed):
        client.subscribe("public_trade.x.A")
        client.slow = True
    for number in range(6):
        relay.publish(PublicTrade(symbol="A", price="1", quantity="1", id=f"{number}" + "x" * 300))
        plain.take(), compressed.take()
    plain.slow = compressed.slow = False
    assert plain.take().names == ["gap", "public_trade", "public_trade", "public_trade"]
    assert compressed.take().names == ["public_trade"] * 6


STREAMS = ["quote.x.A", "quote.all.A", "depth.x.A", "depth.all.A", "public_trade.x.A", "private-account.x.P", "news"]
levels = st.lists(st.tuples(st.sampled_from("123456789"), st.sampled_from("012")), max_size=8).map(tuple)
droppable = st.one_of(
    st.just(QUOTE),
    st.builds(Depth, symbol=st.just("A"), bids=levels, asks=levels, snapshot=st.booleans()),
    st.just(PublicTrade(symbol="A", price="1", quantity="1")),
)
ORDER = Order(event="ORDER_CREATED", id="1", symbol="A", status="OPEN", side="BUY", order_type="LIMIT", quantity="1")
kept = st.sampled_from(["news", ORDER])
script = st.lists(
    st.one_of(
        st.tuples(droppable, st.sampled_from("xy")),
        st.tuples(droppable, st.sampled_from("xy")),
        st.tuples(kept, st.sampled_from("xy")),
        st.sampled_from(["slow", "fast", "flush"]),
        st.tuples(st.sampled_from(["subscribe", "unsubscribe"]), st.sampled_from(STREAMS), st.booleans()),
    ),
    min_size=20,
    max_size=50,
)


def comparable(messages):
    """Without what differs from one connection to the next: events made for one subscriber have ids of their own."""
    return [
        {**message, "data": {name: value for name, value in message["data"].items() if name != "id"}}
        if isinstance(message.get("data"), dict)
        else message
        for message in messages
    ]


@given(script, st.integers(2, 8))
def test_a_compressed_subscriber_sees_what_a_plain_one_sees(relay_of, script, room):
    relay = relay_of(outbox=OutboxLimits(messages=room))
    plain, compressed = clients = [relay.client(), relay.client(compressed=True)]
    assert type(plain.outbox) is Outbox
    assert type(compressed.outbox) is CompressedOutbox
    for step in [*(("subscribe", channel, False) for channel in STREAMS), *script, "fast", "flush"]:
        match step:
            case "slow" | "fast":
                plain.slow = compressed.slow = step == "slow"
            case "flush":
                assert comparable(plain.take()) == comparable(compressed.take())
            case ("subscribe" | "unsubscribe" as what, channel, ids):
                more = {"ids": ids, "rewind": 3} if ids and what == "subscribe" else {}
                answers = [getattr(client, what)(channel, **more) for client in clients]
                assert comparable(answers[0]) == comparable(answers[1])
            case ("news", _):
                relay.trigger("news", data='{"text":"%s"}' % ("news " * 50))
            case (event, provider):
                relay.publish(event, provider, account="P" if isinstance(event, Order) else None)
        if plain.slow:
            assert plain.take() == compressed.take() == []
    assert plain.outbox.closing == compressed.outbox.closing
    assert compressed.bytes <= plain.bytes


class FramedBooks(Books):
    """The same lines as text messages, long enough to be compressed."""

    def gap_frame(self, channel, first_seq, last_seq):
        return framed(super().gap_frame(channel, first_seq, last_seq))

    def snapshot_frame(self, channel):
        return self._framed(super().snapshot_frame(channel))

    def event(self, channel, policy, topic=""):
        return self._framed(super().event(channel, policy, topic))

    def _framed(self, line):
        return Delivery(framed(line), line.channel, line.policy, line.seq, line.conflation_key)


def framed(line):
    return encode_text(line + b"." * 150)


def lines(data):
    return [payload.decode().partition("|")[0] for opcode, payload in frames(data) if opcode == 1]


def test_gap_and_snapshot_frames_for_dropped_deliveries_are_compressed():
    books, kernel = FramedBooks(), Kernel(0)
    outbox = CompressedOutbox(books, OutboxLimits(messages=1))
    outbox.attach(kernel.write, [])
    for channel, policy in [("trades", Policy.GAP), ("depth", Policy.SNAPSHOT)] * 2:
        outbox.put(books.event(channel, policy))
        outbox.flush()
    kernel.room = math.inf
    assert outbox.drain()
    assert lines(kernel.taken) == ["lost trades 1 1", "snapshot depth 2", "gap trades 2"]
    assert kernel.taken.count(b"\xc1") == 3
    assert len(kernel.taken) < 150


@given(steps, st.integers(1, 12), st.integers(60, 1200), st.integers(1, 200))
def test_order_and_announced_losses_when_compressed(steps, messages, size, chunk):
    """The property of every outbox: order holds, frames are whole, and every loss is announced."""
    books, kernel = FramedBooks(), Kernel(0)
    outbox = CompressedOutbox(books, OutboxLimits(messages=messages, bytes=size, chunk=chunk))
    outbox.attach(kernel.write, [])
    put = driven(outbox, kernel, books, steps, scale=3)
    if outbox.closing is not None:
        assert kernel.taken.endswith(encode_close(*outbox.closing))
        lines(kernel.taken)
    else:
        assert outbox.empty
        assert_nothing_lost_in_silence(put, lines(kernel.taken))
        of_policy = defaultdict(int)
        for line in lines(kernel.taken):
            of_policy[line.split()[0]] += 1
        assert of_policy["never_drop"] == sum(delivery.policy is Policy.NEVER_DROP for delivery in put)


def test_the_mix_has_every_policy():
    assert {policy for _, policy in CHANNELS} == set(Policy) - {Policy.CONTROL}
