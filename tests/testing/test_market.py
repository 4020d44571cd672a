"""The market and the account of simulators: the same for the same seed, exact, and consistent with themselves."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model.enums import OrderEvent, OrderStatus, OrderType, PositionEvent, PositionSide, Side, TimeInForce
from relay.testing.account import (
    Filled,
    OrderMoved,
    PositionMoved,
    SimulatedRefusal,
    Ticket,
    TradingAccount,
    money_text,
)
from relay.testing.market import SECOND, Bar, BookMoved, Market, Printed, QuoteMoved, Tradable, plain, units

EURUSD = Tradable(symbol="EURUSD", price=108_430, decimals=5, typical=100_000)
ES = Tradable(symbol="ES", price=512_025, decimals=2, tick=25, size_decimals=0, typical=50, levels=5)
BEGAN = 1_780_315_200 * SECOND


def market(seed=1):
    return Market([EURUSD, ES], seed=seed, start_ns=BEGAN)


def walked(steps, seed=1):
    walking = market(seed)
    return walking, [move for n in range(steps) for move in walking.step(BEGAN + n * SECOND)]


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "decimals", "text"),
    [(108430, 5, "1.08430"), (5, 5, "0.00005"), (-5, 2, "-0.05"), (0, 2, "0.00"), (7, 0, "7"), (-700, 0, "-700")],
)
def test_units_are_written_with_all_their_decimals(number, decimals, text):
    assert plain(number, decimals) == text
    assert units(text, decimals) == number


@given(st.integers(-(10**24), 10**24), st.integers(0, 12))
def test_units_and_text_are_the_same_number(number, decimals):
    assert units(plain(number, decimals), decimals) == number


@pytest.mark.parametrize("text", ["", ".", "1.234", "1e3", "abc", "--1", "1.2.3", "\u0661", "None", " 1"])
def test_what_is_no_number_of_so_many_decimals_is_refused(text):
    with pytest.raises(ValueError, match="decimals"):
        units(text, 2)


def test_zeros_behind_are_no_decimals():
    assert units("1.2300", 2) == 123


# --- the market ------------------------------------------------------------------------------------------------------


def test_the_same_seed_is_the_same_market():
    assert walked(50)[1] == walked(50)[1]
    assert walked(50)[1] != walked(50, seed=2)[1]


def test_prices_stay_on_their_ticks_and_never_cross():
    _, moves = walked(500)
    quotes = [move for move in moves if isinstance(move, QuoteMoved)]
    assert len(quotes) == 1000
    assert all(quote.bid < quote.ask for quote in quotes)
    assert all(quote.bid % 25 == 0 and quote.ask - quote.bid == 25 for quote in quotes if quote.symbol == "ES")
    assert len({quote.bid for quote in quotes}) > 20


def test_changes_applied_to_the_first_book_give_the_last():
    walking = market()
    first = walking.book("EURUSD")
    bids, asks, seq = dict(first.bids), dict(first.asks), first.seq
    for n in range(300):
        for move in walking.step(BEGAN + n * SECOND):
            if isinstance(move, BookMoved) and move.symbol == "EURUSD":
                assert move.seq == seq + 1
                seq = move.seq
                for side, changed in ((bids, move.bids), (asks, move.asks)):
                    side.update(changed)
                    for price in [price for price, size in side.items() if size == 0]:
                        del side[price]
    last = walking.book("EURUSD")
    assert (bids, asks, seq) == (dict(last.bids), dict(last.asks), last.seq)
    assert (len(last.bids), len(last.asks)) == (10, 10)


def test_the_quote_is_the_top_of_the_book():
    walking, _ = walked(20)
    quote, book = walking.quote("ES"), walking.book("ES", 1)
    assert book.bids == ((quote.bid, quote.bid_size),)
    assert book.asks == ((quote.ask, quote.ask_size),)


def test_candles_are_made_of_the_prints():
    walking, moves = walked(400)
    prints = [move for move in moves if isinstance(move, Printed) and move.symbol == "EURUSD"]
    closed = [
        move
        for move in moves
        if isinstance(move, Bar) and move.symbol == "EURUSD" and move.timeframe == "1m" and move.closed
    ]
    assert [print_.id for print_ in prints] == list(range(1, len(prints) + 1))
    assert len(closed) == 6
    for bar in closed:
        inside = [p for p in prints if bar.start_ns <= p.time_ns < bar.start_ns + 60 * SECOND]
        assert (bar.open, bar.close) == (inside[0].price, inside[-1].price)
        assert (bar.high, bar.low) == (max(p.price for p in inside), min(p.price for p in inside))
        assert bar.volume == sum(p.size for p in inside)
    assert walking.bars("EURUSD", "1m")[-1].closed is False


def test_time_never_runs_backwards():
    walking = market()
    walking.step(BEGAN + 10)
    assert {move.time_ns for move in walking.step(BEGAN) if isinstance(move, QuoteMoved)} == {BEGAN + 10}


# --- the account -----------------------------------------------------------------------------------------------------


class Desk:
    """An account on a market that is moved by hand."""

    def __init__(self):
        self.market = market()
        self.account = TradingAccount(self.market, "acc")
        self.now = BEGAN

    def place(self, quantity=1000, side=Side.BUY, **members):
        members.setdefault("symbol", "EURUSD")
        return self.account.place(Ticket(side=side, quantity=quantity, **members), self.now)

    def step(self, steps=1):
        changes = []
        for _ in range(steps):
            self.now += SECOND
            self.market.step(self.now)
            changes += self.account.step(self.now)
        return changes


def told(changes):
    return [change.event if isinstance(change, OrderMoved | PositionMoved) else "fill" for change in changes]


def test_a_market_order_fills_at_the_touch():
    desk = Desk()
    ask = desk.market.quote("EURUSD").ask
    changes = desk.place()
    assert told(changes) == [OrderEvent.ORDER_CREATED, "fill", OrderEvent.ORDER_FILLED, PositionEvent.POSITION_OPENED]
    assert isinstance(changes[1], Filled)
    assert (changes[1].price, changes[1].quantity) == (ask, 1000)
    money = desk.account.money()
    assert money.unrealized == Fraction(-1000, 100_000)  # one tick of spread
    assert money.equity == money.balance + money.unrealized
    assert money.margin == Fraction(ask * 1000, 100_000 * 100)


def test_a_large_order_fills_in_parts():
    desk = Desk()
    changes = desk.place(quantity=1_000_000)
    assert told(changes)[2] is OrderEvent.ORDER_PARTIALLY_FILLED
    changes += desk.step(30)
    fills = [change for change in changes if isinstance(change, Filled)]
    assert sum(fill.quantity for fill in fills) == 1_000_000
    assert len({fill.id for fill in fills}) == len(fills) > 2
    (order,) = desk.account.orders.values()
    assert order.status is OrderStatus.FILLED
    assert order.average == Fraction(sum(fill.price * fill.quantity for fill in fills), 1_000_000)
    assert desk.account.positions["EURUSD"].entry == order.average


def test_an_opposite_fill_reduces_closes_and_turns():
    desk = Desk()
    desk.place(3000)
    assert told(desk.place(1000, Side.SELL))[-1] is PositionEvent.POSITION_MODIFIED
    assert told(desk.place(5000, Side.SELL))[-2:] == [PositionEvent.POSITION_CLOSED, PositionEvent.POSITION_OPENED]
    position = desk.account.positions["EURUSD"]
    assert (position.side, position.quantity) == (PositionSide.SHORT, 3000)
    money = desk.account.money()
    assert money.realized == Fraction(-3000, 100_000)
    assert money.balance == 100_000 + money.realized


def test_a_limit_order_waits_for_its_price():
    desk = Desk()
    limit = desk.market.quote("EURUSD").bid - 5
    assert told(desk.place(order_type=OrderType.LIMIT, limit=limit)) == [OrderEvent.ORDER_CREATED]
    changes = desk.step(200)
    fill = next(change for change in changes if isinstance(change, Filled))
    assert fill.price <= limit


def test_a_stop_order_waits_for_its_price():
    desk = Desk()
    stop = desk.market.quote("EURUSD").ask + 5
    assert told(desk.place(order_type=OrderType.STOP, stop=stop)) == [OrderEvent.ORDER_CREATED]
    fill = next(change for change in desk.step(400) if isinstance(change, Filled))
    assert fill.price >= stop


def test_a_stop_loss_closes_the_position():
    desk = Desk()
    desk.place()
    position = desk.account.positions["EURUSD"]
    desk.account.protect(position.id, desk.now, stop_loss=desk.market.quote("EURUSD").bid - 3)
    assert PositionEvent.POSITION_CLOSED in told(desk.step(300))
    assert not desk.account.positions


@pytest.mark.parametrize(("time_in_force", "filled"), [(TimeInForce.IOC, True), (TimeInForce.FOK, False)])
def test_what_may_not_rest_is_cancelled(time_in_force, filled):
    desk = Desk()
    changes = (
        desk.place(10_000_000, time_in_force=time_in_force)
        if filled
        else desk.place(900_000, time_in_force=time_in_force)
    )
    if filled:
        assert told(changes) == [OrderEvent.ORDER_REJECTED]  # beyond the margin
        changes = desk.place(900_000, time_in_force=time_in_force)
    assert told(changes)[-1] is OrderEvent.ORDER_CANCELLED or told(changes)[-2] is OrderEvent.ORDER_CANCELLED
    assert ("fill" in told(changes)) is filled
    assert not desk.account.open_orders()


def test_an_amended_order_keeps_what_is_not_named():
    desk = Desk()
    desk.place(order_type=OrderType.LIMIT, limit=100_000)
    (change,) = desk.account.amend("ord_1", desk.now, quantity=5000)
    assert (change.order.ticket.quantity, change.order.ticket.limit) == (5000, 100_000)
    assert told(desk.account.cancel("ord_1", desk.now)) == [OrderEvent.ORDER_CANCELLED]


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (lambda desk: desk.place(symbol="NOPE"), "UNKNOWN_SYMBOL"),
        (lambda desk: desk.place(quantity=0), "INVALID_QUANTITY"),
        (lambda desk: desk.place(order_type=OrderType.LIMIT), "INVALID_PRICE"),
        (lambda desk: desk.place(order_type=OrderType.TRAILING_STOP), "UNSUPPORTED_TYPE"),
        (lambda desk: desk.account.cancel("ord_9", 0), "UNKNOWN_ORDER"),
        (lambda desk: desk.account.close("pos_9", 0), "UNKNOWN_POSITION"),
    ],
)
def test_requests_that_make_no_sense_are_refused(request_, code):
    with pytest.raises(SimulatedRefusal) as refusal:
        request_(Desk())
    assert refusal.value.code == code


def test_money_is_rounded_in_its_text_only():
    assert [money_text(Fraction(n, 1000)) for n in (5, 15, -25, 1234567)] == ["0.00", "0.02", "-0.02", "1234.57"]
