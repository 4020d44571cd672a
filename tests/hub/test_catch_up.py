"""A long catch-up is made in parts, and what is delivered meanwhile comes behind it."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from relay.hub.outbox import OutboxLimits
from relay.model.events import Depth, Order, PublicTrade
from relay.pusher.costs import Costs, RequestPrices

TRADES = "public_trade.x.A"


def trade(number: int) -> PublicTrade:
    return PublicTrade(symbol="A", price="1", quantity=str(number + 1))


def publish(relay: Any, most: int) -> None:
    """Publish so many trades while somebody holds the channel: only then they are kept."""
    relay.client().subscribe(TRADES)
    for number in range(most):
        relay.publish(trade(number))


def parts_of(client: Any, now: float) -> int:
    """Let the session finish; return in how many further parts it did."""
    parts = 0
    while client.session.busy:
        client.session.proceed(now)
        parts += 1
    return parts


def test_a_long_rewind_is_made_in_parts_and_events_meanwhile_come_behind_it(relay: Any) -> None:
    publish(relay, 500)
    client = relay.client()
    client.begin("pusher:subscribe", {"channel": TRADES, "rewind": 500})
    first = client.take()
    assert first.names[0] == "subscription_succeeded"
    assert 0 < len(first.seqs) < 100
    relay.publish(trade(500))
    assert client.take() == []
    assert 3 < parts_of(client, relay.now) < 20
    relay.publish(trade(501))
    assert first.seqs + client.take().seqs == list(range(1, 503))


def test_missed_events_their_end_and_new_ones_stay_in_order(relay: Any) -> None:
    first = relay.client()
    position = first.subscribe(TRADES, ids=True)[0]["data"]
    publish(relay, 300)
    client = relay.client()
    resume = {"epoch": position["epoch"], "seq": position["seq"]}
    client.begin("pusher:subscribe", {"channel": TRADES, "ids": True, "resume": resume})
    relay.publish(trade(300))
    assert parts_of(client, relay.now)
    messages = client.take()
    assert messages.seqs[:300] == list(range(1, 301))
    assert messages.names[-2:] == ["tickrelay:resume_succeeded", "public_trade"]
    assert messages[-1]["data"]["seq"] == 301


def test_an_accounts_state_is_made_in_parts(relay: Any) -> None:
    for number in range(300):
        relay.publish(
            Order(account="a", id=str(number), event="ORDER_CREATED", status="OPEN", symbol="A", side="BUY"),
            "x",
            "a",
        )
    client = relay.client()
    channel = "private-account.x.a"
    client.begin("pusher:subscribe", client.signed(channel))
    relay.publish(
        Order(account="a", id="7", event="ORDER_CANCELLED", status="CANCELLED", symbol="A", side="BUY"), "x", "a"
    )
    assert parts_of(client, relay.now) > 3
    assert client.take().seqs == list(range(1, 302))


def test_a_large_book_is_made_in_parts_and_deltas_meanwhile_come_behind_it(relay: Any) -> None:
    levels = [(str(price), "1") for price in range(1, 3001)]
    relay.publish(Depth(symbol="A", bids=levels, asks=[], snapshot=True))
    client, other = relay.client(), relay.client()
    client.begin("pusher:subscribe", {"channel": "depth.x.A"})
    other.begin("pusher:subscribe", {"channel": "depth.x.A"})
    relay.publish(Depth(symbol="A", bids=[("5", "9")], asks=[], snapshot=False))
    assert parts_of(client, relay.now) > 1
    assert parts_of(other, relay.now) == 1, "the book of one number is made once for all"
    for messages in (client.take(), other.take()):
        assert [(m["data"]["seq"], len(m["data"]["depth"]["bids"])) for m in messages.of("depth")] == [
            (1, 3000),
            (2, 1),
        ]


def test_who_leaves_before_the_end_gets_nothing_more(relay: Any) -> None:
    publish(relay, 300)
    client = relay.client()
    client.begin("pusher:subscribe", {"channel": TRADES, "rewind": 300})
    client.take()
    assert client.unsubscribe(TRADES) == []
    assert not client.session.busy
    relay.publish(trade(300))
    assert client.take() == []
    assert client.subscribe(TRADES, rewind=300).seqs == list(range(2, 302))
    client.begin("pusher:subscribe", {"channel": "other", "rewind": 300})
    client.gone()
    assert not client.session.busy


def test_what_waits_behind_a_catch_up_is_bounded(relay: Any) -> None:
    publish(relay, 300)
    client = relay.client()
    client.begin("pusher:subscribe", {"channel": TRADES, "rewind": 300})
    for number in range(300, 1400):
        relay.publish(trade(number))
    assert client.take().seqs == list(range(1, 1401))
    assert parts_of(client, relay.now) == 1


def test_what_is_encoded_for_one_subscriber_has_another_price(relay_of: Any) -> None:
    prices = RequestPrices(
        connection=0, message=0, kilobyte=0, subscribe=0, event=0, sent_kilobyte=0, encoded_kilobyte=100
    )
    relay = relay_of(costs=Costs(connection_rate=1, connection_burst=50, prices=prices))
    relay.publish(trade(0))
    client = relay.client()
    client.subscribe(TRADES, rewind=1)
    assert client.session.pause(relay.now) == 0
    relay.publish(Depth(symbol="A", bids=[(str(price), "1") for price in range(1, 100)], asks=[], snapshot=True))
    client.subscribe("depth.x.A")
    assert client.session.pause(relay.now) > 0


@given(
    st.lists(st.one_of(st.integers(1, 90), st.sampled_from(["part", "slow", "fast", "rewind", "leave"])), max_size=30),
    st.integers(1, 200),
)
def test_whatever_happens_meanwhile_the_numbers_never_run_back(relay_of: Any, steps: list[Any], room: int) -> None:
    relay = relay_of(outbox=OutboxLimits(messages=room))
    client, published, seqs = relay.client(), 0, [0]
    client.subscribe(TRADES)

    def read() -> None:
        for message in client.take().of("public_trade", "gap"):
            first = message["data"].get("from", message["data"]["seq"])
            assert first == seqs[-1] + 1 or seqs[-1] == 0, (first, seqs[-1])
            seqs.append(message["data"]["seq"])

    for step in [*steps, "fast", *["part"] * 50]:
        match step:
            case int():
                for _ in range(step):
                    published += 1
                    relay.publish(trade(published))
            case "part":
                client.session.proceed(relay.now)
            case "slow" | "fast":
                client.slow = step == "slow"
            case "rewind" if TRADES not in client.session.connection.channels:
                read()
                seqs.append(0)
                client.begin("pusher:subscribe", {"channel": TRADES, "rewind": 1000})
            case "leave" if TRADES in client.session.connection.channels:
                client.begin("pusher:unsubscribe", {"channel": TRADES})
        read()
    if client.outbox.closing is None and TRADES in client.session.connection.channels and published:
        assert seqs[-1] in (0, published)
