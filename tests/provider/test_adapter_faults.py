"""A fault of an adapter's own code is named as one, in the log; and what a session goes through is in the log."""

from typing import Any

import pytest

from relay.adapter import Backoff, CloseMeaning, Fetch, Hello, Ping, Send, Subscribe
from relay.model.commands import CancelOrder, PlaceOrder
from relay.model.events import Error, Reply
from relay.provider import session_events
from relay.provider.session_state import WINDOW

ORDER = PlaceOrder(id="1", symbol="S", side="BUY", order_type="MARKET", quantity="1")


def faults(rig: Any) -> list[dict[str, Any]]:
    return [fields for level, event, fields in rig.lines if event == "adapter_fault" and level == "error"]


def adapter_that(rig: Any, encode: Any) -> type[Any]:
    class Faulty(rig.Venue):
        name = "faulty"

        def encode(self, outgoing: Any) -> Any:
            yield from encode(outgoing) or ()
            yield from super().encode(outgoing)

    return Faulty


def broken(outgoing: Any, kind: type) -> Any:
    if isinstance(outgoing, kind):
        return outgoing.no_such_member_of_it
    return ()


def test_a_fault_over_a_subscription_is_not_passed_off_as_the_providers_refusal(rig: Any) -> None:
    r = rig(adapter=adapter_that(rig, lambda outgoing: broken(outgoing, Subscribe)))
    r.up(0)
    r.want("quote:S")
    (error,) = [event for event in r.events if isinstance(event, Error)]
    assert error.message == "quote S: the adapter faulty failed while writing Subscribe; see the log line adapter_fault"
    (fault,) = faults(r)
    assert fault["adapter"] == "faulty"
    assert "no_such_member_of_it" in fault["cause"]
    assert "test_adapter_faults.py:" in fault["at"]


def test_a_fault_over_a_command_is_not_told_to_others(rig: Any) -> None:
    r = rig(adapter=adapter_that(rig, lambda outgoing: broken(outgoing, PlaceOrder)))
    r.up(0)
    r.ask(ORDER)
    (reply,) = [event for event in r.events if isinstance(event, Reply)]
    assert (
        reply.error["message"] == "the adapter faulty failed while writing PlaceOrder; see the log line adapter_fault"
    )
    assert len(faults(r)) == 1


def test_a_refusal_of_the_adapter_keeps_its_reason(rig: Any) -> None:
    r = rig()
    r.up(0)
    r.want("quote:UNWRITABLE")
    (error,) = [event for event in r.events if isinstance(event, Error)]
    assert error.message == "quote UNWRITABLE: UNWRITABLE cannot be written"
    assert not faults(r)


@pytest.mark.parametrize("kind", [Hello, Subscribe, Ping, PlaceOrder, CancelOrder])
@pytest.mark.parametrize("writing", [{"op": "subscribe"}, b"bytes", None, Fetch(tag="x", url=None)], ids=str)
def test_what_is_no_text_is_one_error_of_the_adapter(rig: Any, kind: type, writing: Any) -> None:
    """Not a crash, and the session goes on."""
    encode = adapter_that(rig, lambda outgoing: [writing] if isinstance(outgoing, kind) else ())
    r = rig(adapter=encode)
    r.up(0)
    r.want("quote:S", "quote:T")
    r.ask(ORDER)
    r.ask(CancelOrder(id="2", order_id="o"))
    if kind is Ping:
        r.machine.core.at_once(r.machine.core.encode(Ping()))
    assert r.machine.life.value == "up"
    assert faults(r)
    r.say(["quote", "S", "1"])
    assert r.fresh()[-1].kind == "quote"
    if kind in (PlaceOrder, CancelOrder):
        assert [event.error["code"] for event in r.events if isinstance(event, Reply)] == ["invalid_command"]


def test_what_an_adapter_sends_by_itself_is_text_too(rig: Any) -> None:
    class Sends(rig.Venue):
        def _item(self, item: Any) -> Any:
            yield Send({"pong": 1})

    r = rig(adapter=Sends)
    r.up(0)
    r.say("anything")
    assert (r.machine.life.value, len(faults(r))) == ("up", 1)


def test_a_fault_in_judging_a_close_code_is_a_reconnect(rig: Any) -> None:
    class Judges(rig.Venue):
        @classmethod
        def closed(cls, code: int, reason: str) -> CloseMeaning:
            raise KeyError(code)

    r = rig(adapter=Judges)
    r.up(0)
    r.do(session_events.Closed(4000))
    assert r.machine.life.value == "waiting"
    assert len(faults(r)) == 1


def test_a_message_that_makes_the_adapter_raise_names_the_line(rig: Any) -> None:
    r = rig()
    r.up(0)
    (sampled,) = r.say("raise")
    assert "KeyError: 'no such member' (at " in sampled.why
    assert "conftest.py:" in sampled.why


# --- how many messages are not understood ----------------------------------------------------------------------------


def told(rig: Any) -> list[str]:
    return [event.message for event in rig.events if isinstance(event, Error) and event.code == "unknown_messages"]


def test_the_share_is_that_of_the_window_when_it_is_said(rig: Any) -> None:
    r = rig()
    r.up(0)
    for number in range(50):
        r.say("nonsense" if number % 50 else "alive")
    assert told(r) == [
        "2 of the last 3 messages (66.7%) were not understood by the adapter venue; the log and the status page have samples"
    ]
    for number in range(WINDOW):
        r.say("nonsense" if number % 50 else "alive")
    assert len(told(r)) == 2
    assert "(98.0%)" in told(r)[1] or "(100.0%)" in told(r)[1]


def test_a_message_with_many_parts_is_one_message(rig: Any) -> None:
    r = rig()
    r.up(0)
    r.say(*(["nonsense"] * 40))
    assert told(r) == []
    r.say("nonsense")
    assert "2 of the last 2 messages (100.0%)" in told(r)[0]


def test_nothing_of_a_message_is_told_to_others(rig: Any) -> None:
    r = rig()
    r.up(0)
    for _ in range(10):
        r.say("balance of a person")
    assert not any("balance" in message for message in told(r))


# --- the log ---------------------------------------------------------------------------------------------------------


def lines(rig: Any) -> list[tuple[str, str]]:
    return [(level, event) for level, event, _ in rig.lines]


def test_the_life_of_a_session_is_in_the_log(rig: Any) -> None:
    r = rig(refusals={401: CloseMeaning.REFUSED}, backoff=Backoff(first=1.0, cap=1.0, jitter=0.0))
    r.want("quote:S")
    r.do(session_events.Start(), 0)
    r.do(session_events.DialFailed("Connection refused"))
    r.tick(9)
    r.up(10)
    r.say(["quote", "S", "1"])
    r.do(session_events.Closed(1006), 20)
    r.tick(29)
    r.up(30)
    r.do(session_events.Closed(1006), 40)
    r.tick(60)
    r.do(session_events.DialRefused(401), 60)
    assert [line for line in lines(r) if "stream" not in line[1]] == [
        ("warning", "session_reconnecting"),
        ("info", "session_connected"),
        ("warning", "session_reconnecting"),
        ("info", "session_connected"),
        ("warning", "gap"),
        ("warning", "session_reconnecting"),
        ("error", "session_failed"),
    ]
    assert r.lines[0][2] == {"cause": "no connection: Connection refused"}
    assert r.lines[-1][2]["cause"] == "the connection was refused with HTTP status 401"


def test_refused_subscriptions_are_in_the_log(rig: Any) -> None:
    r = rig()
    r.up(0)
    r.want("quote:S")
    r.say(["nack", "not for you", "quote:S"])
    assert r.lines[-1] == ("warning", "subscription_refused", {"cause": "quote S: not for you"})


def test_credentials_of_a_url_are_not_shown(rig: Any) -> None:
    r = rig(url="wss://user:pa55@venue.test/ws")
    (dial,) = r.do(session_events.Start())
    assert "pa55" in dial.url
    assert dial.shown == "wss://[redacted]@venue.test/ws"
    r.do(session_events.DialFailed("cannot reach wss://user:pa55@venue.test/ws"))
    assert "pa55" not in repr((r.lines, r.events, r.machine.status()))
