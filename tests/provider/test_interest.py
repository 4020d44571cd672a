"""Who is asked for next: ranks, turns, bounds, refused requests in parts, and what the provider has yet to read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.adapter import Rate
from relay.model.channels import Asker, Topic
from relay.model.enums import StalenessEvent
from relay.model.symbols import SymbolError, SymbolTable
from relay.provider import session_events
from relay.provider.outbound import MOST_UNWRITTEN
from relay.provider.pacing import Rotation
from relay.provider.session_state import SessionSettings
from relay.provider.subscription_table import SubscriptionTable

STRANGER, HONEST, OTHER_APP = Asker("1", "7.1"), Asker("1", "7.2"), Asker("2", "7.3")


def topic(name: str) -> Topic:
    return Topic(kind="quote", symbol=name)


def names(topics) -> list[str]:
    return [each.symbol for each in topics]


def table(**given) -> SubscriptionTable:
    return SubscriptionTable(**{"per_frame": 10, "linger": 30.0, "ack_within": 5.0, **given})


# --- turns -----------------------------------------------------------------------------------------------------------


def test_apps_take_turns_and_their_connections_within_them() -> None:
    line: Rotation[str] = Rotation()
    for each in range(4):
        line.put(f"bad{each}", STRANGER)
    line.put("good", HONEST)
    line.put("far", OTHER_APP)
    assert line.take(10) == ["bad0", "far", "good", "bad1", "bad2", "bad3"]
    assert (len(line), line.size, line.connections) == (0, 0, 0)


def test_a_client_with_many_connections_gets_the_turns_of_one() -> None:
    line: Rotation[str] = Rotation()
    for connection in range(60):
        for each in range(10):
            line.put(f"bad{connection}.{each}", Asker("1", f"7.{connection}", "192.0.2.1"))
    line.put("good", Asker("1", "8.1", "192.0.2.2"))
    line.put("proxied", Asker("1", "9.1"))
    assert line.take(3) == ["bad0.0", "good", "proxied"]
    assert line.take(2) == ["bad1.0", "bad2.0"]
    assert line.waiting_of(Asker("1", "7.3", "192.0.2.1")) == 10


def test_a_name_two_wait_for_is_taken_at_the_first_turn_of_either() -> None:
    line: Rotation[str] = Rotation()
    for each in ("bad0", "bad1", "bad2", "good"):
        line.put(each, STRANGER)
    line.put("good", HONEST)
    assert line.take(2) == ["bad0", "good"]
    assert line.take(9) == ["bad1", "bad2"]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=60))
def test_nobody_waits_longer_than_a_turn_of_everybody_else_for_each_of_its_own(asked) -> None:
    line: Rotation[tuple[int, int]] = Rotation()
    for number, (connection, name) in enumerate(asked):
        line.put((connection, name if name else number), Asker("1", str(connection)))
    own = [each for each in dict.fromkeys((c, n or i) for i, (c, n) in enumerate(asked)) if each[0] == 0]
    order = line.take(1000)
    for place, each in enumerate(own):
        assert order.index(each) < (place + 1) * 4
    assert (len(line), line.size, line.connections) == (0, 0, 0)


def test_a_thousand_names_of_one_connection_keep_nobody_waiting_where_20_a_minute_are_allowed(rig) -> None:
    r = rig(topics_per_frame=1, limits=(Rate(20, per=60, of="interest"),), silent_after=999)
    r.up(0)
    r.machine.interest([session_events.WantTopic(topic(f"BAD{each}"), STRANGER) for each in range(1000)], r.moment(0))
    r.do(session_events.WantTopic(topic("GOOD"), HONEST), 1)
    frames = r.texts(r.tick(60))
    assert frames.index({"sub": ["quote:GOOD"]}) <= 2  # behind the one already written, and one turn of the other


# --- ranks -----------------------------------------------------------------------------------------------------------


def test_pinned_topics_and_accounts_go_first_and_never_with_others() -> None:
    found = table()
    found.want(topic("NEW"), STRANGER)
    found.want(topic("PINNED"))
    found.want(Topic(kind="account", account="main"), HONEST)
    assert [[each.symbol or each.account for each in found.take_to_subscribe()] for _ in range(3)] == [
        ["PINNED", "main"],
        ["NEW"],
        [],
    ]


def test_on_the_next_connection_what_was_good_goes_before_what_is_new_and_what_was_refused_goes_alone() -> None:
    found = table()
    for each in ("BAD1", "BAD2", "GOOD"):
        found.want(topic(each), STRANGER)
    found.sent(found.take_to_subscribe(), 0)
    found.refused([topic("BAD1")], "no such symbol")
    found.refused([topic("BAD2")], "no such symbol")
    good = next(entry for entry in found if entry.topic.symbol == "GOOD")
    good.flowed = True
    found.want(topic("NEW"), STRANGER)
    found.disconnected()
    assert [names(found.take_to_subscribe()) for _ in range(5)] == [["GOOD"], ["NEW"], ["BAD1"], ["BAD2"], []]


def test_what_was_never_asked_for_does_not_linger() -> None:
    found = table()
    found.want(topic("A"), STRANGER)
    found.unwant(topic("A"), 1)
    assert found.expire(1) == [topic("A")]
    assert (found.take_to_subscribe(), found.take_to_unsubscribe()) == ((), ())


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_where_too_many_wait_the_connection_with_the_most_is_refused() -> None:
    found = table(most_waiting=10)
    for each in range(10):
        assert found.want(topic(f"BAD{each}"), STRANGER) == []
    (refused,) = found.want(topic("BAD10"), STRANGER)
    assert refused.topic == topic("BAD10")
    assert "setting waiting" in (refused.reason or "")
    (refused,) = found.want(topic("GOOD"), HONEST)
    assert refused.topic == topic("BAD9")
    assert "GOOD" in names(found.take_to_subscribe())


def test_a_topic_that_is_crowded_out_is_stale_with_the_setting_named(rig) -> None:
    r = rig(settings=SessionSettings(waiting=1), limits=(Rate(1, per=60, of="interest"),))
    r.up(0)
    r.do(session_events.WantTopic(topic("FIRST"), STRANGER))
    r.fresh()
    r.do(session_events.WantTopic(topic("A"), STRANGER), 1)
    r.do(session_events.WantTopic(topic("B"), STRANGER), 1)
    r.do(session_events.WantTopic(topic("C"), STRANGER), 1)
    stale = [event for event in r.fresh() if event.kind == "staleness"]
    assert [(event.symbols, event.event) for event in stale] == [(("C",), StalenessEvent.STALE)]
    assert "1 topics wait already (setting waiting of the provider)" in stale[0].reason


# --- refused requests ------------------------------------------------------------------------------------------------


@given(st.sets(st.integers(0, 19)), st.integers(1, 20))
def test_a_request_refused_for_some_of_its_topics_is_asked_again_until_those_are_alone(bad, per_frame) -> None:
    found = table(per_frame=per_frame)
    for each in range(20):
        found.want(topic(str(each)), (STRANGER, HONEST)[each % 2])
    requests = 0
    while batch := found.take_to_subscribe():
        requests += 1
        found.sent(batch, requests)
        if any(int(each.symbol or "") in bad for each in batch):
            found.refused(batch, "no such symbol")
        else:
            found.confirmed(batch)
    refused = {int(entry.topic.symbol or "") for entry in found if entry.reason is not None}
    assert refused == bad
    assert found.status()["confirmed"] == 20 - len(bad)
    assert requests <= 60


def test_a_connections_own_topics_are_asked_again_apart_from_those_of_others() -> None:
    found = table()
    for each in range(5):
        found.want(topic(f"BAD{each}"), STRANGER)
    found.want(topic("GOOD"), HONEST)
    batch = found.take_to_subscribe()
    found.sent(batch, 0)
    assert found.refused(batch, "a symbol is not known") == []
    assert sorted([names(found.take_to_subscribe()), names(found.take_to_subscribe())], key=len) == [
        ["GOOD"],
        ["BAD0", "BAD1", "BAD2", "BAD3", "BAD4"],
    ]


def test_a_request_without_an_answer_is_repeated_in_parts() -> None:
    found = table()
    for each in "ABCD":
        found.want(topic(each), STRANGER)
    found.sent(found.take_to_subscribe(), 0)
    repeat, given_up = found.overdue(5)
    assert (len(repeat), given_up) == (4, [])
    assert [names(found.take_to_subscribe()) for _ in range(2)] == [["A", "B"], ["C", "D"]]


def test_the_session_asks_again_in_parts_and_says_which_was_refused(rig) -> None:
    r = rig()
    r.up(0)
    r.fresh()
    turns = [session_events.WantTopic(topic(each), STRANGER) for each in ("A", "B", "BAD")]
    assert r.texts(r.machine.interest(turns, r.moment(1))) == [{"sub": ["quote:A", "quote:B", "quote:BAD"]}]
    frames = r.texts(r.say(["nack", "unknown symbol", "quote:A", "quote:B", "quote:BAD"], at=2))
    assert frames == [{"sub": ["quote:A", "quote:B"]}, {"sub": ["quote:BAD"]}]
    assert r.kinds() == []
    r.say(["ack", "quote:A", "quote:B"], ["nack", "unknown symbol", "quote:BAD"], at=3)
    assert r.kinds() == ["staleness STALE", "error"]
    assert [each["symbol"] for each in r.machine.status()["topics"]["troubled"]] == ["BAD"]


# --- a topic that waits ----------------------------------------------------------------------------------------------


def test_a_topic_that_waits_long_is_stale_once_and_fresh_with_its_first_event(rig) -> None:
    r = rig(topics_per_frame=1, limits=(Rate(1, per=60, of="interest"),), silent_after=999)
    r.up(0)
    r.do(session_events.WantTopic(topic("A"), STRANGER), 0)
    r.do(session_events.WantTopic(topic("B"), STRANGER), 0)
    r.say(["quote", "A", "1"], at=0)
    r.fresh()
    for at in (1, 5, 10, 15, 20, 25):
        r.tick(at)
    (stale,) = [event for event in r.fresh() if event.kind == "staleness"]
    assert (stale.symbols, stale.event) == (("B",), StalenessEvent.STALE)
    assert stale.reason == "not requested yet: 1 topics wait for the provider's rate limit"
    assert r.texts(r.tick(60)) == [{"sub": ["quote:B"]}]
    r.say(["quote", "B", "1"], at=61)
    assert r.kinds() == ["staleness FRESH", "quote"]


# --- what the provider has yet to read -------------------------------------------------------------------------------


def test_no_more_subscriptions_are_handed_over_than_the_provider_reads_and_a_command_passes_them(rig) -> None:
    r = rig(topics_per_frame=1)
    r.up(0)
    for _ in range(10):
        r.machine.written()
    turns = [session_events.WantTopic(topic(str(each)), STRANGER) for each in range(1000)]
    assert len(r.texts(r.machine.interest(turns, r.moment(1)))) == MOST_UNWRITTEN
    assert r.texts(r.tick(2)) == []
    order = r.Venue.commands[0](id="c1", account="main", symbol="S", side="BUY", order_type="MARKET", quantity="1")
    assert r.texts(r.ask(order, at=3)) == [{"order": "c1"}]
    sent = MOST_UNWRITTEN
    for _ in range(10_000):
        if r.machine.written():
            sent += len(r.texts(r.tick(4)))
    assert sent == 1000


# --- names that are not listed ---------------------------------------------------------------------------------------


def listed() -> SymbolTable:
    symbols = SymbolTable({"OWN": "OWN/USD"})
    symbols.learn([("BTCUSDT", "BTC/USDT"), ("ETHUSDT", "ETH/USDT")], complete=True)
    return symbols


@pytest.mark.parametrize(
    ("asked", "hint"),
    [("BTC/USD", "BTC/USDT"), ("btc-usdt", "BTC/USDT"), ("ETHUSTD", "ETH/USDT"), ("ZZZZZZ", None)],
)
def test_a_complete_table_refuses_what_it_does_not_list_with_the_nearest(asked, hint) -> None:
    with pytest.raises(SymbolError) as refused:
        listed().native(asked)
    assert (f"did you mean {hint}?" in str(refused.value)) if hint else ("did you mean" not in str(refused.value))


def test_a_complete_table_has_what_is_listed_and_what_is_configured() -> None:
    symbols = listed()
    assert symbols.complete
    assert (symbols.native("BTC/USDT"), symbols.native("OWN/USD")) == ("BTCUSDT", "OWN")
    symbols.learn([("BTCUSDT", "BTC/USDT"), ("NEW", "NEW")], complete=True)
    assert (symbols.native("NEW"), symbols.native("OWN/USD")) == ("NEW", "OWN")
    with pytest.raises(SymbolError, match="lists no symbol 'ETH/USDT'"):  # delisted
        symbols.native("ETH/USDT")
    assert SymbolTable().native("ANYTHING") == "ANYTHING"


def test_an_ambiguous_name_of_a_complete_list_is_listed_under_its_own_text() -> None:
    symbols = SymbolTable()
    (error,) = symbols.learn([("A", "X/Y"), ("B", "X/Y")], complete=True)
    assert "X/Y is A" in str(error)
    assert symbols.native("B") == "B"


def test_a_name_that_is_not_listed_asks_nothing_and_leaves_the_request_of_the_others_whole(rig) -> None:
    r = rig()
    r.context.symbols.learn([("A", "A"), ("B", "B")], complete=True)
    r.up(0)
    r.fresh()
    turns = [session_events.WantTopic(topic(each), STRANGER) for each in ("A", "BAD", "B")]
    assert r.texts(r.machine.interest(turns, r.moment(1))) == [{"sub": ["quote:A", "quote:B"]}]
    (stale,) = [event for event in r.fresh() if event.kind == "staleness"]
    assert stale.symbols == ("BAD",)
    assert "lists no symbol 'BAD'" in stale.reason


def test_the_status_names_some_of_the_topics_that_were_refused_and_counts_all() -> None:
    found = table()
    for each in range(300):
        found.want(topic(f"BAD{each}"), STRANGER)
    for batch in iter(found.take_to_subscribe, ()):
        found.sent(batch, 0)
        for each in batch:
            found.refused([each], "no such symbol")
    status = found.status()
    assert status["refused"] == 300
    assert len(status["troubled"]) == 100
