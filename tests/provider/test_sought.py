"""Orders that a list lacks, or names by another id: the broker is asked for the one order before anything is said of it."""

import pytest

from relay.adapter import (
    Adapter,
    Answer,
    Complete,
    Fetch,
    Orders,
    Poll,
    Polled,
    Reconcile,
    Seek,
    Session,
    Sought,
    dumps,
    loads,
)
from relay.model.commands import CancelOrder, ListOrders, PlaceOrder
from relay.model.events import Error, Order, Trade
from relay.provider import session_events


class Broker(Adapter):
    """Lists open orders and fills, and tells one order when it is asked for it."""

    name = "broker"
    session = Session(url="wss://broker.test/ws", http="https://broker.test")
    commands = (PlaceOrder, CancelOrder, ListOrders)
    orders = Orders(sought=True)

    def encode(self, outgoing):
        match outgoing:
            case Reconcile():
                yield Poll("list", dumps("list"), every=30)
                yield Poll("fills", dumps("fills"), every=90)
            case Seek(id):
                yield Poll(f"one {id}", dumps(f"one {id}"))

    def decode(self, message):
        match loads(message):
            case ["list", *orders]:
                yield from map(state, orders)
                yield Complete("order")
                yield Polled("list")
            case ["part of the list", *orders]:
                yield from map(state, orders)
                yield Polled("list")
            case ["fills", *fills]:
                for id, order in fills:
                    yield Trade(id=id, order_id=order, symbol="S", side="BUY", quantity="1", price="1")
                yield Polled("fills")
            case ["one", id, None]:
                yield Sought(None, id, failed=Error(code="order_not_found", message=f"no {id}"))
                yield Polled(f"one {id}")
            case ["one", id, order]:
                yield Sought(state(order), id)
                yield Polled(f"one {id}")
            case ["named", id, name]:
                yield Sought(state([id, "OPEN"], client_order_id=name))

    def fetched(self, tag, answer):
        return self.decode(answer.text)


def state(given, **more):
    id, status = given
    return Order(event=None, id=id, symbol="S", side="BUY", quantity="2", status=status, **more)


@pytest.fixture
def r(rig):
    """A session whose lists were empty, and whose order ``o1`` is open since."""
    r = rig(adapter=Broker)
    assert r.texts([*r.up(0), *r.tick(0)]) == ["list"]
    answer(r, "list")
    answer(r, "fills")
    r.say("one", "o1", ["o1", "OPEN"], at=1)
    assert told(r) == ["ORDER_CREATED o1 OPEN"]
    return r


def answer(r, *message):
    """Let the broker say this; return what is asked then."""
    return r.texts([*r.say(*message), *r.tick()])


def told(r):
    """Return the account's events since the last call."""
    found = []
    for event in r.fresh():
        match event:
            case Order():
                gone = " vanished" if event.vanished else ""
                found.append(f"{event.event} {event.id} {event.status}{gone}")
            case Trade():
                found.append(f"fill {event.id} of {event.order_id}")
            case Error() if event.account is not None:
                found.append(event.code)
    return found


def test_an_order_that_a_list_lacks_is_asked_for_and_has_vanished_if_it_is_not_found(r):
    assert r.texts(r.tick(30)) == ["list"]
    assert answer(r, "list") == ["one o1"]
    assert told(r) == [], "it may have ended, or have another name"
    assert answer(r, "one", "o1", None) == ["list"], "once more, now that it is clear what is missing"
    assert told(r) == ["ORDER_MODIFIED o1 OPEN vanished"]
    assert answer(r, "list") == []
    assert told(r) == []


def test_an_order_that_ended_while_nobody_looked_is_told_as_it_ended(r):
    r.tick(30)
    answer(r, "list")
    answer(r, "one", "o1", ["o1", "FILLED"])
    assert told(r) == ["ORDER_FILLED o1 FILLED"]


def test_the_other_id_of_an_order_is_learned_and_the_first_one_is_told(r):
    r.tick(30)
    assert answer(r, "list", ["b7", "OPEN"], ["b8", "OPEN"]) == ["one o1"]
    assert told(r) == [], "either may be o1 under another name"
    assert answer(r, "one", "o1", ["b7", "PARTIALLY_FILLED"]) == ["list"]
    assert told(r) == ["ORDER_PARTIALLY_FILLED o1 PARTIALLY_FILLED"]
    assert answer(r, "list", ["b7", "PARTIALLY_FILLED"], ["b8", "OPEN"]) == []
    assert told(r) == ["ORDER_CREATED b8 OPEN"]
    answer(r, "fills", ["f1", "b7"])
    assert told(r) == ["fill f1 of o1"]
    known = r.machine.core.known
    assert known.order("b7") == known.order("o1")


def test_the_other_id_outlives_the_connection(r):
    r.say("one", "o1", ["b7", "OPEN"])
    r.do(session_events.Closed(1006), 40)
    r.tick(100)
    r.up(101)
    told(r)
    answer(r, "list", ["b7", "CANCELLED"])
    assert told(r) == ["ORDER_CANCELLED o1 CANCELLED"]


def test_an_order_that_ended_before_anybody_knew_it_is_no_news_and_a_part_of_a_list_tells_of_no_new_one(r):
    r.tick(30)
    answer(r, "list", ["o1", "OPEN"], ["old", "FILLED"])
    answer(r, "part of the list", ["o1", "OPEN"], ["new", "OPEN"])
    assert told(r) == []
    answer(r, "list", ["o1", "OPEN"], ["new", "OPEN"])
    assert told(r) == ["ORDER_CREATED new OPEN"]


def test_a_fill_of_an_order_that_nobody_knows_waits_until_the_open_ones_were_listed(r):
    r.tick(30)
    answer(r, "list", ["o1", "OPEN"])
    r.machine.core.outbound.polls.again("fills")
    assert r.texts(r.tick()) == ["fills"]
    assert answer(r, "fills", ["f1", "b7"], ["f2", "o1"]) == ["list"]
    assert told(r) == ["fill f2 of o1"]
    assert answer(r, "list") == ["one o1"]
    assert answer(r, "one", "o1", ["b7", "OPEN"]) == ["fills"]
    assert answer(r, "fills", ["f1", "b7"], ["f2", "o1"]) == ["list"]
    assert told(r) == ["fill f1 of o1"]


def test_a_fill_of_an_order_that_stays_unknown_is_told_and_the_order_is_asked_for(r):
    r.tick(30)
    answer(r, "list", ["o1", "OPEN"])
    answer(r, "fills", ["f1", "foreign"])
    answer(r, "list", ["o1", "OPEN"])
    assert answer(r, "fills", ["f1", "foreign"]) == ["one foreign"]
    assert told(r) == ["fill f1 of foreign"]
    answer(r, "one", "foreign", ["foreign", "FILLED"])
    assert told(r) == ["ORDER_FILLED foreign FILLED"]


def test_an_order_that_is_not_found_and_that_no_list_lacks_is_told_as_an_error(r):
    r.say("one", "mine", None)
    assert told(r) == ["order_not_found"]


def test_an_order_that_was_asked_for_by_its_sender_s_id_has_it(r):
    r.say("named", "o2", "mine")
    assert told(r) == ["ORDER_CREATED o2 OPEN"]
    assert r.machine.core.known.order("o2").client_order_id == "mine"


class Requesting(Broker):
    """The same broker over HTTP."""

    def encode(self, outgoing):
        match outgoing:
            case Reconcile():
                yield Fetch(tag="list", url="/orders")
            case Seek(id):
                yield Fetch(tag="one", url=f"/orders/{id}")


def test_a_list_over_http_is_judged_in_the_same_way(rig):
    r = rig(adapter=Requesting)
    (request,) = r.requests(r.up(0))
    fetched(r, request, "list")
    r.say("one", "o1", ["o1", "OPEN"], at=1)
    r.do(session_events.Closed(1006), 40)
    r.tick(100)
    (request,) = r.requests(r.up(101))
    told(r)
    (one,) = r.requests([*fetched(r, request, "list"), *r.tick()])
    assert (one.fetch.url, told(r)) == ("/orders/o1", [])
    fetched(r, one, "one", "o1", None)
    assert told(r) == ["ORDER_MODIFIED o1 OPEN vanished"]


def fetched(r, request, *message):
    return r.do(session_events.Fetched(request.id, Answer(status=200, text=dumps(message))))
