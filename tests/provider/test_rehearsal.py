"""A dry run shows what a command would send, without secrets; a copy of the connected adapter writes it."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from msgspec import Raw
from msgspec.json import encode

from relay.adapter import Adapter, Context, Fetch, Orders, Outgoing, Session, dumps
from relay.model.commands import Call, Command, PlaceOrder
from relay.model.enums import OrderType, Side
from relay.provider.session_commands import dry_run
from relay.trading.service import Unwritable

CONTEXT = Context(provider="x", credentials={"password": 'pa"ss word', "empty": ""}, learned={"token": "t0ken"})


class Counting(Adapter):
    """Numbers what it writes."""

    name = "counting"
    session = Session(url="ws://x/{token}", http="https://x/{token}")

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.number = 0
        self.native_of: Callable[[str], str] = self.native

    def encode(self, outgoing: Outgoing) -> Iterable[str | Fetch]:
        assert isinstance(outgoing, Command)
        self.number += 1
        secrets = {**self.context.credentials, **self.context.learned}
        yield dumps({"number": self.number, **secrets})
        yield Fetch(tag=1, url="orders", query={"t": "t0ken"}, form=secrets, headers={"Authorization": "Bearer t0ken"})

    def decode(self, message: str) -> Iterable[Any]:
        return ()


class Stubborn(Counting):
    """Cannot be copied."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.own = (each for each in ())


CALL = Call(id="c", function="f")


def test_a_copy_of_the_connected_one_writes() -> None:
    connected = Counting(CONTEXT)
    connected.number = 6
    for _ in range(2):
        frame, _ = dry_run(Counting, connected, CONTEXT, CALL)
        assert frame == {"frame": '{"number":7,"password":"[redacted]","empty":"","token":"[redacted]"}'}
    assert connected.number == 6


def test_a_body_is_shown_with_its_own_digits_and_a_number_that_is_a_secret_is_hidden() -> None:
    context = Context(provider="x", credentials={"login": "100020"})
    body = {"login": 100020, "price": Raw(b"1.10"), "more": [{"of": "100020", "volume": 10, "all": True, "none": None}]}

    class Rest(Counting):
        def encode(self, outgoing: Outgoing) -> Iterable[str | Fetch]:
            yield Fetch(tag=1, url="orders", json=body)

        session = Session(url="ws://x", http="https://x")

    (request,) = dry_run(Rest, None, context, CALL)
    assert encode(request["body"]) == (
        b'{"login":"[redacted]","price":1.10,"more":[{"of":"[redacted]","volume":10,"all":true,"none":null}]}'
    )


class Keeping(Counting):
    """Remembers what it writes beyond its connection."""

    def encode(self, outgoing: Outgoing) -> Iterable[str | Fetch]:
        assert isinstance(outgoing, Command)
        self.context.kept["written"].append(outgoing.id)
        self.context.learned["token"] = "another"
        yield dumps(self.context.kept["written"])


@pytest.mark.parametrize("is_connected", [True, False])
def test_what_is_only_shown_is_not_remembered(is_connected: bool) -> None:
    """The next connection would ask for an order that was never placed."""
    context = Context(provider="x", learned={"token": "t0ken"}, kept={"written": ["before"]})
    connected = Keeping(context) if is_connected else None
    assert dry_run(Keeping, connected, context, CALL) == [{"frame": '["before","c"]'}]
    assert (context.kept, context.learned) == ({"written": ["before"]}, {"token": "t0ken"})


@pytest.mark.parametrize("connected", [None, Stubborn(CONTEXT)])
def test_a_fresh_one_writes_where_none_is_connected_or_it_cannot_be_copied(connected: Adapter | None) -> None:
    frame, request = dry_run(Stubborn, connected, CONTEXT, CALL)
    assert '"number":1' in frame["frame"]
    assert request == {
        "method": "GET",
        "url": "https://x/[redacted]/orders?t=[redacted]",
        "headers": {"Authorization": "Bearer [redacted]"},
        "body": {"password": "[redacted]", "empty": "", "token": "[redacted]"},
    }


def test_what_cannot_be_written_is_said_without_secrets() -> None:
    class Refusing(Counting):
        def encode(self, outgoing: Outgoing) -> Iterable[str | Fetch]:
            raise ValueError("not with t0ken")

    with pytest.raises(Unwritable, match=r"not with \[redacted\]"):
        dry_run(Refusing, None, CONTEXT, CALL)
    with pytest.raises(Unwritable, match="the session's http needs {token}"):
        dry_run(Counting, None, Context(provider="x"), CALL)


def test_an_order_the_broker_does_not_take_is_refused_as_when_it_is_sent() -> None:
    class Plain(Counting):
        orders = Orders(types=(OrderType.MARKET,), members=())

    order = PlaceOrder(id="c", symbol="X", side=Side.BUY, quantity="1", order_type=OrderType.LIMIT, limit_price="2")
    with pytest.raises(Unwritable, match="order_type: LIMIT is not supported; supported: MARKET"):
        dry_run(Plain, None, CONTEXT, order)
