"""CrossTrade's orders and fills, which are asked for: what is told of them, when they are asked for, and at what cost."""

import attrs
import pytest

from relay.adapter import Context, GivenUp, Subscribe, Unknown, Unsubscribe, dumps, loads
from relay.model.commands import AmendOrder, CancelOrder, ClosePosition, Command
from relay.model.enums import OrderEvent, OrderStatus, Side
from relay.model.events import Connection, Error, Order, Reply, Trade
from relay.provider import session_events
from relay.provider.session import SessionMachine, SessionSettings
from relay.provider.session_events import Now
from relay.provider.session_state import ACCOUNT_ERROR
from relay.trading.pending import AccountRef
from relay.trading.registry import CommandRegistry
from relay_crosstrade.adapter import CrossTrade
from relay_crosstrade.reading import STATES
from relay_crosstrade.simulator import KEY, NO_ADDON
from support.crosstrade_session import ACCOUNT, BEGAN_NS, SECOND, Session, place

FAR = {"order_type": "LIMIT", "limit_price": "5000.00"}
RAW = {
    "account": "Sim101", "orderId": "o1", "instrument": "ES 09-26", "orderType": "Limit", "orderState": "Working", "quantity": 2,
    "averageFillPrice": 0.0, "filled": 0, "limitPrice": 5000.0, "orderAction": "Buy", "stopPrice": 0.0, "timeInForce": "Day",
    "epoch": 1_780_315_200_000, "oco": "",
}  # fmt: skip
FILL = {
    "id": "e1", "epoch": 1_780_315_201_000, "orderId": "o1", "account": "Sim101", "instrument": "ES 09-26",
    "marketPosition": "Long", "price": 5000.25, "quantity": 1,
}  # fmt: skip


class Line:
    """A session, what it told of the account, and the question that is under way. Time stands still between profits."""

    def __init__(self, before=None, *, configured="Sim101", **options):
        self.now, self.asked, self.events = 0.0, None, []
        if before is not None:
            self.registry, self.machine, self.now = before.registry, before.machine, before.now + 60
            self.machine.core._publish = self.machine._inbound._publish = self._publish
            self.machine.step(session_events.Closed(1006), self._moment())
            self.now += 60
        else:
            unlimited = type("Unlimited", (CrossTrade,), {"session": attrs.evolve(CrossTrade.session, limits=())})
            context = Context(
                provider="crosstrade", account=configured, options={**CrossTrade.defaults(), **options}, credentials={"key": KEY},
            )  # fmt: skip
            self.registry = CommandRegistry()
            self.machine = SessionMachine(
                unlimited, context, publish=self._publish, commands=self.registry, uniform=lambda: 0.0,
                correlation=lambda: "uuid", settings=SessionSettings(linger=0),
            )  # fmt: skip
            self.machine.step(session_events.Start(), self._moment())
        self.machine.step(session_events.Tick(), self._moment())
        self.first = self._do(session_events.Opened())
        self.core = self.machine.core
        self.adapter = self.core.adapter
        self.known = self.core.known
        self.interval = self.adapter.interval / 1000

    def _moment(self):
        return Now(self.now, BEGAN_NS + int(self.now * SECOND))

    def _publish(self, event, stamp, now):
        if isinstance(event, Reply):
            self.registry.settle(event, stamp, now)
        if isinstance(event, Error) and event.account is not None:  # as it is told to those who may read the account
            event = attrs.evolve(event, account=None)
        elif isinstance(event, Connection) or getattr(event, "code", None) == ACCOUNT_ERROR:
            return
        self.events.append(event)

    def _do(self, turn):
        outputs = [*self.machine.step(turn, self._moment()), *self.machine.step(session_events.Tick(), self._moment())]
        return self._sent(outputs)

    def _sent(self, outputs):
        return [self._noted(each.text) for each in outputs if isinstance(each, session_events.SendText)]

    def write(self, outgoing):
        """Write; the frames, and the poll that is asked then, as functions and their arguments."""
        match outgoing:
            case Command():
                about = self.core.context
                pending, _ = self.registry.take(
                    AccountRef(about.provider, about.account), outgoing, None, self.now + 10, self.now,
                    written=self.machine.as_written(outgoing),
                )  # fmt: skip
                return self._do(session_events.SendCommand(pending))
            case Subscribe(topics):
                turns = [session_events.WantTopic(topic) for topic in topics]
                return [*self._sent(self.machine.interest(turns, self._moment())), *self._do(session_events.Tick())]
            case Unsubscribe(topics):
                return [frame for topic in topics for frame in self._do(session_events.UnwantTopic(topic))]
        self.core.begin(self._moment())
        self.core.outbound.look(self.adapter, self.core.encode(outgoing))
        return self._do(session_events.Tick())

    def hear(self, **frame):
        """Read a frame; what it told. The answer to a question that nobody asked is asked for before."""
        id = frame.get("id", "")
        if id.startswith("ask ") and (self.asked is None or self.asked["id"] != id):
            _, what, *about = id.split(" ", 2)
            for poll in self.adapter.blotter.ask(what, "".join(about), "Sim101"):
                self.core.outbound.polls.put(poll)
            self._do(session_events.Tick())
            self.core.outbound.polls._plans[id].asked_at = self.now
        if self.asked is not None and self.asked["id"] == id:
            self.asked = None
        before, samples = len(self.events), self.core.counters.unknown
        self._sent(self.machine.receive(dumps(frame), self._moment()))
        self._do(session_events.Tick())
        unknown = [*self.core.counters.samples][
            len(self.core.counters.samples) - (self.core.counters.unknown - samples) :
        ]
        return [Unknown(each.raw, each.why) for each in unknown] + self.events[before:]

    def _noted(self, text):
        frame = loads(text)
        if " " in frame.get("id", ""):
            self.asked = frame
        return frame.get("api", frame["action"]), frame.get("args")

    @property
    def question(self):
        """The function that is asked."""
        return None if self.asked is None else self.asked["api"]

    def answer(self, **data):
        """Answer the question under way."""
        return self.hear(id=self.asked["id"], data=data)

    def reply(self, command, **data):
        self.write(command)
        return self.hear(id=command.id, data=data)

    def profit(self, realized="0.0", unrealized="0.0", name="Sim101"):
        self.now += self.interval
        money = {"name": name, "realizedPnl": realized, "unrealizedPnl": unrealized, "netLiquidation": "1.0"}
        return self.hear(type="pnlUpdate", accounts=[money])

    def empty(self):
        """Answer every question with nothing, until none is asked; return the functions asked."""
        functions = []
        while self.asked is not None:
            functions.append(self.question)
            self.answer(**nothing(self.question))
        return functions


def nothing(api):
    return {"error": GONE} if api == "GetOrder" else {LISTS[api]: [], "success": True}


GONE = "Order linked to 'o1' not found or already terminal."
LISTS = {"GetAllOrders": "orders", "ListExecutions": "executions", "GetAllPositions": "positions"}
LOOK = ["GetAllOrders", "ListExecutions", "GetAllPositions"]


@pytest.fixture
def line():
    """A line on which everything has been asked for that is asked for at first."""
    line = Line()
    line.empty()
    line.profit()
    return line


def words(items):
    return [f"{item.event} {item.status}" if isinstance(item, Order) else item.kind for item in items]


# --- reading ---------------------------------------------------------------------------------------------------------


def test_an_order_is_read_with_what_it_has_and_nothing_else(line):
    line.reply(place("c", client_order_id="mine"), orderId="o1", success=True)
    (order,) = line.answer(**RAW)
    assert order == Order(
        event=OrderEvent.ORDER_MODIFIED, id="o1", client_order_id="mine", symbol="ES 09-26", native_symbol="ES 09-26", side=Side.BUY,
        order_type="LIMIT", quantity="2", filled_quantity="0", status=OrderStatus.OPEN, time_in_force="DAY", limit_price="5000.0",
        updated_at="2026-06-01T12:00:00.000Z", quantity_unit="contracts",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"orderType": "StopMarket", "stopPrice": 1.5}, {"order_type": "STOP", "stop_price": "1.5", "limit_price": None}),
        ({"orderType": "StopLimit", "stopPrice": 1}, {"order_type": "STOP_LIMIT", "stop_price": "1", "limit_price": "5000.0"}),
        ({"orderType": "Market"}, {"order_type": "MARKET", "limit_price": None, "stop_price": None}),
        ({"orderType": "Limit", "limitPrice": -37.63}, {"limit_price": "-37.63"}),
        ({"orderType": "MIT"}, {"order_type": None, "limit_price": None}),
        ({"timeInForce": "Opg"}, {"time_in_force": "OPG"}),
        ({"timeInForce": "AtDawn"}, {"time_in_force": None}),
        ({"orderAction": "SellShort"}, {"side": "SELL"}),
        ({"orderAction": "BuyToCover"}, {"side": "BUY"}),
        ({"orderAction": None, "action": "Sell"}, {"side": "SELL"}),
        ({"filled": 1, "averageFillPrice": 5000.125}, {"filled_quantity": "1", "average_fill_price": "5000.125"}),
        ({"account": "Sim110"}, {"account": "Sim110"}),
        ({"account": "sim101", "oco": "pair", "epoch": None}, {"account": None, "oco_group_id": "pair", "updated_at": None}),
    ],
)  # fmt: skip
def test_members_mean_what_ninjatrader_means(line, members, expected):
    (order,) = line.hear(id="ask order o1", data={**RAW, **members})
    assert {name: getattr(order, name) for name in expected} == expected


@pytest.mark.parametrize("state", STATES)
def test_every_state_of_ninjatrader_s_page_is_known(line, state):
    (order,) = line.hear(id="ask order o1", data={**RAW, "orderState": state.title(), "filled": 1})
    assert order.status is STATES[state]


@pytest.mark.parametrize(
    "members", [{"orderState": "Unknown"}, {"orderState": "Dreaming"}, {"orderAction": None}, {"orderAction": "Hold"}, {"orderId": 7}]
)  # fmt: skip
def test_what_is_not_known_is_not_guessed(line, members):
    (unknown,) = line.hear(id="ask order o1", data={**RAW, **members})
    assert isinstance(unknown, Unknown)


def test_a_fill_has_the_provider_s_id_and_time_and_comes_in_order(line):
    later = {**FILL, "id": "e2", "epoch": FILL["epoch"] + 1, "marketPosition": "Short", "commission": 2.09}
    wrong = {**FILL, "epoch": None, "marketPosition": "Sideways"}
    unknown, first, second = line.hear(id="ask fills Sim101", data={"executions": [later, FILL, wrong]})
    assert isinstance(unknown, Unknown)
    assert first == Trade(
        id="e1", order_id="o1", symbol="ES 09-26", native_symbol="ES 09-26", side=Side.BUY, quantity="1", price="5000.25",
        time="2026-06-01T12:00:01.000Z", quantity_unit="contracts",
    )  # fmt: skip
    assert (second.id, second.side, second.commission) == ("e2", Side.SELL, "2.09")


# --- what happened ---------------------------------------------------------------------------------------------------


def test_the_life_of_an_order_is_told_by_its_differences(line):
    reply, created = line.reply(place("c", client_order_id="mine", **FAR), orderId="o1", success=True)
    assert (created.event, created.status, created.limit_price) == ("ORDER_CREATED", "PENDING", "5000.00")
    assert reply.result["order_id"] == created.id == "o1"
    states = [
        ("Submitted", {}, ["ORDER_MODIFIED PENDING"]),
        ("Working", {}, ["ORDER_MODIFIED OPEN"]),
        ("Working", {}, []),
        ("Working", {"limitPrice": 5001.0}, ["ORDER_MODIFIED OPEN"]),
        ("PartFilled", {"filled": 1}, ["ORDER_PARTIALLY_FILLED PARTIALLY_FILLED"]),
        ("PartFilled", {"filled": 1, "quantity": 3}, ["ORDER_MODIFIED PARTIALLY_FILLED"]),
        ("CancelPending", {"filled": 1}, ["ORDER_MODIFIED PENDING_CANCEL"]),
        ("Cancelled", {"filled": 1}, ["ORDER_CANCELLED CANCELLED"]),
        ("Cancelled", {"filled": 1}, []),
        ("Working", {"filled": 0, "epoch": RAW["epoch"]}, []),
    ]
    for at, (state, members, expected) in enumerate(states):
        later = {"epoch": RAW["epoch"] + 2000 * at}
        told = line.hear(id="ask order o1", data={**RAW, "orderState": state, **later, **members})
        assert words(told) == expected, state
        assert {order.client_order_id for order in told} <= {"mine"}


def test_a_list_tells_open_orders_and_the_ends_of_those_that_were_open(line):
    (told,) = line.hear(id="ask orders", data={"orders": [RAW]})
    assert words([told]) == ["ORDER_CREATED OPEN"]
    ended = {**RAW, "orderState": "Filled", "filled": 2}
    assert words(line.hear(id="ask orders", data=[ended, {**ended, "orderId": "before"}])) == ["ORDER_FILLED FILLED"]


def test_an_order_that_a_list_lacks_is_asked_for_by_its_id(line):
    line.hear(id="ask orders", data={"orders": [RAW]})
    line.empty()
    line.profit()
    assert line.question == "GetAllOrders", "an order is open"
    assert line.answer(orders=[], count=0) == []
    assert line.asked["args"] == {"account": "Sim101", "orderId": "o1"}
    assert words(line.answer(**{**RAW, "orderState": "Rejected"})) == ["ORDER_REJECTED REJECTED"]


def test_an_order_nobody_finds_has_ended_unseen(line):
    line.hear(id="ask orders", data={"orders": [RAW]})
    line.empty()
    line.profit()
    line.answer(orders=[], count=0)
    (gone,) = line.answer(error="Order linked to 'o1' not found or already terminal.")
    assert (gone.event, gone.status, gone.vanished, gone.reconciled) == ("ORDER_MODIFIED", "OPEN", True, True)
    assert line.empty() == ["GetAllOrders"]
    line.profit()
    assert line.question is None, "nothing is open any more"


def test_a_list_that_is_not_whole_ends_nothing(line):
    line.hear(id="ask orders", data={"orders": [RAW]})
    line.empty()
    line.profit()
    line.answer(orders=[], count=1)
    assert line.question is None


def test_an_order_that_is_open_and_missing_from_every_list_does_not_keep_asking(line):
    line.hear(id="ask orders", data={"orders": [RAW]})
    line.empty()
    line.profit()
    asked = []
    for _ in range(10):
        if line.asked is None:
            break
        asked.append(line.question)
        line.answer(**RAW) if line.question == "GetOrder" else line.answer(orders=[{**RAW, "orderId": "o2"}])
    assert asked == ["GetAllOrders", "GetOrder", "GetAllOrders", "GetOrder"]


# --- other ids -------------------------------------------------------------------------------------------------------


def test_an_order_keeps_the_id_it_was_placed_under(line):
    """The broker's id of it comes with the answer to the first one; until then a list's is not taken for another order."""
    line.reply(place("c", **FAR), orderId="guid", success=True)
    renamed = {**RAW, "orderId": "4711"}
    assert line.hear(id="ask orders", data={"orders": [renamed]}) == []
    assert [order.id for order in line.answer(**renamed)] == ["guid"]
    changed = {**renamed, "limitPrice": 1, "epoch": RAW["epoch"] + 2000}
    assert [order.id for order in line.hear(id="ask orders", data={"orders": [changed]})] == ["guid"]
    (fill,) = line.hear(id="ask fills Sim101", data={"executions": [{**FILL, "orderId": "4711"}]})
    assert fill.order_id == "guid"


def test_a_fill_under_a_name_nobody_knows_waits_until_the_open_orders_were_looked_at(line):
    line.reply(place("c", **FAR), orderId="guid", success=True)
    line.answer(**{**RAW, "orderId": "guid"})
    line.profit(realized="1.0")
    line.answer(orders=[{**RAW, "orderId": "guid"}])
    renamed = {**RAW, "orderId": "4711", "orderState": "PartFilled", "filled": 1}
    fills = [{**FILL, "orderId": "4711"}, {**FILL, "id": "e2", "orderId": "foreign"}]
    assert line.answer(executions=fills) == []
    told = {"GetAllPositions": [], "ListExecutions": []}
    while line.asked is not None:
        match line.question:
            case "GetAllOrders":
                told.setdefault("orders", []).extend(line.answer(orders=[renamed]))
            case "GetOrder":
                foreign = line.asked["args"]["orderId"] == "foreign"
                line.answer(**({**RAW, "orderId": "foreign", "orderState": "Filled"} if foreign else renamed))
            case "ListExecutions":
                told["ListExecutions"] += line.answer(executions=fills)
            case "GetAllPositions":
                line.answer(positions=[])
    first, second = [*{fill.id: fill for fill in told["ListExecutions"]}.values()]
    assert (first.order_id, second.order_id) == ("guid", "foreign")


def test_what_a_list_told_first_gets_its_sender_s_id_with_the_reply(line):
    line.hear(id="ask orders", data={"orders": [RAW]})
    _, order = line.reply(place("c", client_order_id="mine"), orderId="o1", success=True)
    assert (words([order]), order.client_order_id) == (["ORDER_MODIFIED OPEN"], "mine")


def test_the_simulator_renames_orders_as_brokers_do():
    session = Session()
    session.simulator.exchange.renames = True
    items = session.say(place("c1", client_order_id="mine"))
    orders = [item for item in items if isinstance(item, Order)]
    (fill,) = [item for item in items if isinstance(item, Trade)]
    assert words(orders) == ["ORDER_CREATED PENDING", "ORDER_FILLED FILLED"]
    assert {order.id for order in orders} == {fill.order_id} == {items[0].result["order_id"]}
    session.now_ns += 5 * SECOND
    placed = session.say(place("c2", **FAR))[0].result["order_id"]
    session.say(Subscribe((ACCOUNT,)))
    assert [item for item in session.tick(4) if isinstance(item, Order)] == []
    (cancelled,) = [item for item in session.say(CancelOrder(id="c3", order_id=placed)) if isinstance(item, Order)]
    assert (cancelled.id, cancelled.status) == (placed, "CANCELLED")


# --- when it is asked ------------------------------------------------------------------------------------------------


def test_a_session_that_is_up_asks_for_what_it_may_have_missed():
    line = Line()
    assert line.first == [("GetAllOrders", {"activeOnly": True})]
    (order,) = line.answer(orders=[RAW], count=1)
    assert order.reconciled
    assert line.asked["args"] == {"account": "Sim101", "lookbackTime": 900}
    (fill,) = line.answer(executions=[{**FILL, "orderId": "before"}])
    assert fill.reconciled
    assert line.asked["args"] == {"includeFlat": True}, "the order behind a missed fill is not asked for"
    assert line.answer(positions=[], count=0) == []
    assert line.question is None


def test_what_was_open_is_asked_for_on_the_next_connection(line):
    line.reply(place("c", client_order_id="mine", **FAR), orderId="o1", success=True)
    again = Line(line)
    assert again.answer(orders=[], count=0) == []
    (filled,) = again.answer(**{**RAW, "orderState": "Filled", "filled": 2})
    assert (filled.client_order_id, filled.reconciled, words([filled])) == ("mine", True, ["ORDER_FILLED FILLED"])


@pytest.mark.parametrize("arrived", [True, False])
def test_an_order_whose_answer_was_lost_is_asked_for_by_its_sender_s_id(line, arrived):
    """On every connection, while its outcome is not known: `GivenUp` is the relay's."""
    again = Line(line)
    again.empty()
    assert again.write(GivenUp(place("c", client_order_id="mine"))) == [
        ("GetOrder", {"account": "Sim101", "orderId": "mine"})
    ]
    gone = "Order linked to 'mine' not found or already terminal."
    (told,) = again.answer(**RAW) if arrived else again.answer(error=gone)
    if arrived:
        assert (told.id, told.client_order_id) == ("o1", "mine")
    else:
        assert told == Error(code="order_not_found", message=f"order mine: {gone}", details=told.details)


def test_a_command_that_was_given_up_is_followed(line):
    command = place("c", client_order_id="mine")
    line.write(command)
    assert line.write(GivenUp(command)) == [("GetOrder", {"account": "Sim101", "orderId": "mine"})]
    assert line.asked["args"] == {"account": "Sim101", "orderId": "mine"}
    assert [order.client_order_id for order in line.answer(**RAW)] == ["mine"]


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        (place("c"), ["GetOrder", "GetAllOrders", "GetOrder", "GetAllOrders"]),
        (CancelOrder(id="c", order_id="o1"), ["GetOrder", "GetAllOrders"]),
        (AmendOrder(id="c", order_id="o1", quantity="1"), ["GetOrder", "GetAllOrders"]),
        (ClosePosition(id="c", position_id="ES 09-26"), LOOK),
    ],
)
def test_an_accepted_command_is_followed_at_once(line, command, asked):
    """An order that is not found is looked for in the lists."""
    line.reply(command, orderId="o1", success=True)
    assert line.empty() == asked


def test_a_command_that_was_refused_is_not(line):
    line.reply(place("c"), error=NO_ADDON)
    line.reply(ClosePosition(id="d", position_id="ES 09-26"), error="No positions found for instrument 'ES 09-26'")
    assert line.question is None


def test_a_fill_is_a_reason_to_ask_for_everything_and_for_its_order(line):
    line.reply(place("c"), orderId="o1", success=True)
    line.answer(**{**RAW, "orderState": "Filled", "filled": 2})
    assert line.question == "GetAllOrders"
    line.answer(orders=[], count=0)
    line.answer(executions=[FILL, {**FILL, "id": "e2", "orderId": "another"}])
    assert line.asked["args"] == {"account": "Sim101", "orderId": "another"}
    another = line.answer(**{**RAW, "orderId": "another", "orderState": "Filled", "filled": 2})
    assert words(another) == ["ORDER_FILLED FILLED"]
    assert line.empty() == ["GetAllPositions"], "the order of a fill that is known is no news of a fill"


@pytest.mark.parametrize("change", [{"realized": "12.5"}, {"unrealized": "-0.25"}])
def test_profit_that_says_something_was_filled_is_a_reason(line, change):
    line.profit(**change)
    assert line.empty() == LOOK
    line.profit(**change)
    assert line.question is None


def test_profit_that_moves_with_the_market_is_none(line):
    line.profit(unrealized="1.0")
    line.empty()
    line.profit(unrealized="2.0")
    assert line.question is None


def test_the_profit_of_any_account_asks_for_its_fills():
    line = Line(configured=None)
    line.empty()
    line.profit(name="Sim110")
    line.profit(name="Sim110", realized="1.0")
    line.answer(orders=[], count=0)
    line.answer(positions=[], count=0)
    assert line.asked["args"] == {"account": "Sim110"}


def test_everything_is_looked_at_every_30_seconds():
    line = Line(pnl_interval="10000")
    line.empty()
    line.write(Subscribe((ACCOUNT,)))
    asked = [line.empty()]
    for _ in range(6):
        line.profit()
        asked.append(line.empty())
    assert asked == [LOOK, [], [], LOOK, [], [], LOOK]


def test_fills_are_asked_for_of_the_session_s_account_and_of_those_subscribed():
    """No account is configured here, and Sim101 is the one of commands that name none."""
    own, other = (attrs.evolve(ACCOUNT, account=name) for name in ("Sim101", "Sim110"))
    line = Line(configured=None, account="Sim101")
    line.empty()
    line.write(Subscribe((own, other)))
    line.profit()
    assert sorted(line.empty()) == ["GetAllOrders", "GetAllPositions", "ListExecutions", "ListExecutions"]
    line.write(Unsubscribe((other,)))
    line.now += 30
    line.profit()
    assert sorted(line.empty()) == sorted([*LOOK, "ListExecutions"]), (
        "what was asked is answered, and nobody asks again"
    )
    line.now += 30
    line.profit()
    assert line.empty() == LOOK


# --- one at a time, and failures -------------------------------------------------------------------------------------


def test_one_question_is_under_way_at_a_time(line):
    line.reply(place("c1", **FAR), orderId="o1", success=True)
    first = line.asked
    line.reply(place("c2", **FAR), orderId="o2", success=True)
    line.profit(realized="1.0")
    assert line.asked is first
    line.answer(**RAW)
    assert line.asked["args"]["orderId"] == "o2"


def test_lists_take_turns_however_much_there_is_to_be_asked(line):
    """A trade a second, and an answer a second: everything is asked for again and again."""
    line.hear(id="ask orders", data={"orders": [RAW]})
    line.profit(realized="-1.0")
    asked = []
    for n in range(12):
        asked.append(line.question)
        line.answer(**{LISTS[line.question]: [RAW] if line.question == "GetAllOrders" else []})
        line.profit(realized=f"{n}")
    assert asked.count("GetAllOrders") == asked.count("ListExecutions") == asked.count("GetAllPositions") == 4


def test_a_question_that_failed_is_asked_again(line):
    line.profit(realized="1.0")
    line.answer(orders=[], count=0)
    (error,) = line.answer(error=NO_ADDON)
    assert (error.code, error.message) == ("addon_not_connected", f"fills: {NO_ADDON}")
    line.answer(positions=[], count=0)
    assert line.question is None, "after a second"
    line.profit(realized="1.0")
    assert line.asked["args"] == {"account": "Sim101", "lookbackTime": 900}, "as far back as can be"
    assert [fill.reconciled for fill in line.answer(executions=[FILL])] == [True]
    assert line.asked["args"] == {"account": "Sim101", "orderId": "o1"}, "its order is no older than the failure"


def test_a_failure_that_is_no_refusal_says_nothing_of_an_order(line):
    """It is asked for again, and meanwhile the lists are not kept waiting."""
    line.hear(id="ask orders", data={"orders": [RAW]})
    line.empty()
    line.profit()
    line.answer(orders=[], count=0)
    asked, told = [], []
    for _ in range(4):
        asked.append(line.question)
        if line.question == "GetOrder":
            told += line.answer(error="Internal server error")
            line.profit()
        else:
            line.answer(orders=[], count=0)
    assert asked == ["GetOrder", "GetAllOrders", "GetOrder", "GetAllOrders"]
    assert [(error.code, error.message) for error in told] == [("refused", "order: Internal server error")], "once"
    assert [order.id for order in line.known.open_orders()] == ["o1"]


def test_a_function_the_add_on_has_not_is_not_asked_for_again(line):
    line.hear(id="ask orders", data={"orders": [RAW]})
    line.profit()
    (error,) = line.answer(error="Unknown API command")
    assert error.message == "orders: Unknown API command"
    line.profit()
    assert line.question == "GetOrder", "what is open is asked for one by one"
    line.answer(**RAW)
    assert line.question is None


def test_an_answer_without_its_list_is_unknown_and_ends_the_asking(line):
    line.profit(realized="1.0")
    (unknown,) = line.answer(unexpected=[])
    assert isinstance(unknown, Unknown)
    assert line.empty() == ["ListExecutions", "GetAllPositions"]
    line.profit(realized="2.0")
    assert line.question == "ListExecutions"


def test_a_question_nobody_answers_is_asked_again(line):
    line.profit(realized="1.0")
    first, line.asked = line.asked, None
    updates = 0
    while line.asked is None:
        line.profit(realized="1.0")
        updates += 1
    assert updates == 10
    assert first["api"] == "GetAllOrders"
    assert line.empty() == LOOK[1:], "the others are not kept waiting"
    line.profit(realized="1.0")
    assert line.empty() == LOOK[:1]
