"""Lists that lag, come late, in another order or in other spellings, and streams that keep back or repeat what they say.

An account ends up as it is at the broker; nothing is told twice, taken back or invented on the way.
"""

import json
import re

import pytest
import trio

from relay.model.commands import CancelOrder, ClosePosition
from relay.testing.faults import Cut
from relay.testing.port import HttpResponse
from relay.testing.simulator import Link
from support.deadlines import WITHIN
from support.faulty import rig
from support.traded import order, replied, traded

BROKERS = ("helio", "scaletrade", "tektii")
#: CrossTrade's lists are answers on its one connection, asked for all the time, and most of the truth there is.
#: Shuriken has no lists.
LISTED = (*BROKERS, "crosstrade")
LISTS = {
    "helio": r"/api/v1/accounts/[^/]*/(portfolio|history/orders)",
    "scaletrade": r"/trades|/account/me",
    "tektii": r"/v1/(account|positions|orders|orders/history|trades)$",
}
_ACCOUNT = {
    "helio": r'\{"type":"(execution|portfolio|metrics)Event"',
    "scaletrade": r'\["[ob]"',
    "tektii": r'\{"type":"(order|trade|position|account)"',
    "crosstrade": r'\{"type":"pnlUpdate"',
}
#: Answers to lists on CrossTrade's connection: which request it was, which list, and the list.
_ANSWER = re.compile(r'(\{"id":"(?:ask|missed) (orders|fills|positions)[^"]*","data":)(.*)\}', re.DOTALL)
_DECIMAL = re.compile(r'(?<=[":, \[])(-?\d+\.\d+)(?=[",\]}])')
_TIME = re.compile(r'(\d\dT\d\d:\d\d:\d\d)(\.\d+)?Z"')


class Meddler:
    """Somebody between a broker and the relay, who passes on what is said about the account as a test wants it."""

    def __init__(self, r, monkeypatch):
        self.stream = lambda text: [text]
        self.answers = {}
        self.asked = 0
        self.read_again = None
        self.spelled = str
        #: What a list waits for when it was made: else it comes before what the stream has told, where the machine is busy.
        self.before = r.settled
        send, answer, name = Link.send, r.simulator.answer, r.name

        def meddled(link, text):
            if name == "crosstrade" and (found := _ANSWER.fullmatch(text)):
                self.asked += 1
                of, listed = found[2], found[3]
                if self.read_again is not None and of in self.read_again:
                    listed = self.read_again.pop(of)
                else:
                    self.answers[of] = listed
                text = f"{found[1]}{self.spelled(listed)}}}"
            for each in self.stream(text) if re.match(_ACCOUNT[name], text) else [text]:
                send(link, each)

        async def answered(request):
            response = await answer(request)
            path = request.target.partition("?")[0]
            if request.method != "GET" or not re.fullmatch(LISTS[name], path):
                return response
            self.asked += 1
            key = path, re.sub(r'"whereBetween".*', "", str(request.body))
            if self.read_again is not None and key in self.read_again:
                response = self.read_again.pop(key)
            else:
                self.answers[key] = response
            await self.before()
            return HttpResponse(status=response.status, body=self.spelled(response.body), headers=response.headers)

        monkeypatch.setattr(Link, "send", meddled)
        if name in LISTS:
            r.simulator.answer = answered

    def rewind(self):
        """Answer the next request for each list as the last one was."""
        self.read_again = dict(self.answers)

    async def audits(self, count):
        """Wait until all lists were asked for so many times more."""
        until = self.asked + count * max(1, len({path for path, *_ in self.answers}))
        with trio.fail_after(WITHIN):
            while self.asked < until:
                await trio.sleep(0.01)


def respelled(text):
    """The same in another order, with other digits and other texts for the same numbers and times."""

    def reversed_lists(value):
        match value:
            case list():
                return [reversed_lists(item) for item in value[::-1]]
            case {"structure": _, "rows": rows}:
                return {**value, "rows": rows[::-1]}
            case dict():
                return {name: reversed_lists(item) for name, item in value.items()}
        return value

    kept = json.loads(text, parse_float=lambda digits: f"@{digits}@")
    text = json.dumps(reversed_lists(kept), separators=(",", ":"))
    text = re.sub(r'"@([^@"]*)@"', r"\1", text)
    text = _DECIMAL.sub(r"\g<1>00", text)
    return _TIME.sub(lambda found: f'{found[1]}{found[2] or "."}000Z"', text)


def facts(events):
    """Return the events of orders, fills and positions, without figures that follow the market."""
    found = []
    for event in events:
        kind = event["type"]
        if kind not in ("order", "trade", "position"):
            continue
        body = event[kind]
        figure = body.get("filled_quantity") if kind == "order" else body["quantity"]
        said = (kind, body["id"], event["event"], body.get("status"), figure and float(figure))
        is_only_profit = event.get("event") == "POSITION_MODIFIED" and said in found
        if not is_only_profit:
            found.append(said)
    return found


async def rests(r, view):
    """Wait until each open order was said to be open: some brokers have it pending first."""
    await r.subscriber.until(
        lambda: all(body["status"] == "OPEN" for (kind, _), body in view.held.items() if kind == "order")
    )


def filled(r):
    return [event for event in r.on(r.account) if event.get("event") == "ORDER_FILLED"]


def truth(r, there, view):
    return view.open("position") == there.positions() and view.open("order") == there.orders()


@pytest.mark.parametrize("name", BROKERS)
async def test_what_the_stream_keeps_back_the_audit_finds_once(name, monkeypatch):
    async with rig(name, every=0.1, configured={"audit": 0.5}) as r:
        there, view = await traded(r)
        meddler = Meddler(r, monkeypatch)
        (resting,), (held,) = there.orders(), there.positions()
        meddler.stream = lambda text: []
        await r.settled()
        since = len(r.heard)
        there.act()
        await r.subscriber.until(lambda: resting not in there.orders() and truth(r, there, view))
        await meddler.audits(3)
        said = facts(r.on(r.account, since=since))
        assert len(said) == len(set(said))
        ended = [fact[:4] for fact in said if fact[1] in (held, resting) and fact[:2] != ("position", resting)]
        assert ("position", held, "POSITION_CLOSED", None) in ended
        assert ("order", resting, "ORDER_CANCELLED", "CANCELLED") in ended
        assert all(
            event.get("reconciled")
            for event in r.on(r.account, since=since)
            if event["type"] in ("order", "trade", "position")
        )
        assert r.counters()["notes"]["found_by_audit"] >= 3
        assert "stream_incomplete" in [
            event["code"] for event in r.on(r.status, since=since) if event["type"] == "error"
        ]
        assert len(view.fills) == len(set(view.fills))
        assert r.problems() == []


@pytest.mark.parametrize("name", LISTED)
async def test_lists_from_before_the_last_changes_take_nothing_back(name, monkeypatch):
    monkeypatch.setattr("relay_crosstrade.orders.SWEEP", 1.0)
    async with rig(name, every=0.1, configured={"audit": 0.5}) as r:
        there, view = await traded(r)
        (resting,), (held,) = there.orders(), there.positions()
        meddler = Meddler(r, monkeypatch)
        await meddler.audits(2)
        meddler.rewind()
        kept = dict(meddler.read_again)
        meddler.read_again = None
        r.session.send(CancelOrder(id="c3", order_id=resting))
        r.session.send(ClosePosition(id="c4", position_id=held))
        r.session.send(order("c5", name, "LIMIT"))
        await r.subscriber.until(lambda: all(replied(r, id) == "accepted" for id in ("c3", "c4", "c5")))
        await r.subscriber.until(lambda: held not in there.positions() and resting not in there.orders())
        await r.subscriber.until(lambda: truth(r, there, view))
        await rests(r, view)
        if name == "crosstrade":  # its fills are polled behind the rest
            await r.subscriber.until(lambda: len(view.fills) == 2 and len(filled(r)) == 2)
        meddler.read_again = kept
        await r.settled()  # what is on the way when the line breaks is found by the lists
        since = len(r.heard)
        r.upstream.inject(Cut())
        await r.state("CONNECTED", since=since)
        await meddler.audits(3)
        with trio.fail_after(WITHIN):
            while meddler.read_again:
                await trio.sleep(0.01)
        await meddler.audits(6)
        assert facts(r.on(r.account, since=since)) == [], r.on(r.account, since=since)
        assert truth(r, there, view)
        assert r.problems() == []


@pytest.mark.parametrize("name", BROKERS)
async def test_lists_that_come_late_take_nothing_back(name, monkeypatch):
    async with rig(name, every=0.1, configured={"audit": 0.0}) as r:
        there, view = await traded(r)
        (resting,), (held,) = there.orders(), there.positions()
        await rests(r, view)
        meddler = Meddler(r, monkeypatch)
        gate = trio.Event()
        meddler.before = gate.wait
        await r.settled()  # what is on the way when the line breaks is found by the lists
        since = len(r.heard)
        r.upstream.inject(Cut())
        await r.state("CONNECTED", since=since)
        with trio.fail_after(WITHIN):
            while not meddler.asked:
                await trio.sleep(0.01)
        await r.flowing(since=since)
        r.session.send(CancelOrder(id="c3", order_id=resting))
        r.session.send(ClosePosition(id="c4", position_id=held))
        await r.subscriber.until(lambda: held not in there.positions() and resting not in there.orders())
        await r.subscriber.until(lambda: truth(r, there, view))
        since = len(r.heard)
        gate.set()
        await r.flowing(since=since)
        await trio.sleep(1)  # nothing is taken back afterwards
        assert facts(r.on(r.account, since=since)) == [], r.on(r.account, since=since)
        assert truth(r, there, view)
        assert r.problems() == []


@pytest.mark.parametrize("name", LISTED)
async def test_other_spellings_another_order_and_repetitions_say_nothing_new(name, monkeypatch):
    monkeypatch.setattr("relay_crosstrade.orders.SWEEP", 1.0)
    async with rig(name, every=0.1, configured={"audit": 0.5}) as r:
        meddler = Meddler(r, monkeypatch)
        meddler.stream = lambda text: [text, text]
        meddler.spelled = respelled
        since = len(r.heard)
        there, view = await traded(r)
        (resting,), (held,) = there.orders(), there.positions()
        await meddler.audits(2)
        r.session.send(CancelOrder(id="c3", order_id=resting))
        r.session.send(ClosePosition(id="c4", position_id=held))
        await r.subscriber.until(lambda: held not in there.positions() and resting not in there.orders())
        await r.subscriber.until(lambda: truth(r, there, view))
        await r.settled()  # what is on the way when the line breaks is found by the lists
        r.upstream.inject(Cut())
        await r.state("CONNECTED", since=since)
        await meddler.audits(2)
        events = r.on(r.account, since=since)
        said = facts(events)
        assert [fact for fact in said if said.count(fact) > 1] == [], said
        assert [
            fact for fact in facts(event for event in events if event.get("reconciled")) if fact[0] != "position"
        ] == []
        assert truth(r, there, view)
        assert r.problems() == []


# --- Tektii's stream, over the wire ----------------------------------------------------------------------------------


def _fill(r, id, order, *, symbol="AAPL", side="BUY", quantity="1"):
    trade = {"id": id, "order_id": order, "symbol": symbol, "side": side, "quantity": quantity, "price": "150.00"}
    r.simulator.tell("trade", event="TRADE_FILLED", trade=trade)


async def test_fills_with_the_same_id_are_told_apart_by_symbol_order_and_side():
    async with rig("tektii", every=0.05, configured={"audit": 0.0}) as r:
        since = len(r.heard)
        fills = [("28457", "o1", "AAPL", "BUY"), ("28457", "o2", "EUR/USD", "BUY"),
                 ("777", "o3", "AAPL", "BUY"), ("777", "o4", "AAPL", "SELL")]  # fmt: skip
        for _ in range(2):
            for id, order_id, symbol, side in fills:
                _fill(r, id, order_id, symbol=symbol, side=side)
        _fill(r, "end", "o5")
        await r.subscriber.until(lambda: any(e["trade"]["id"] == "end" for e in trades(r, since)))
        assert [(e["trade"]["id"], e["trade"]["order_id"]) for e in trades(r, since)[:-1]] == [
            fill[:2] for fill in fills
        ]


def trades(r, since):
    return [event for event in r.on(r.account, since=since) if event["type"] == "trade"]


async def test_a_fill_behind_the_end_of_its_order_corrects_the_order():
    async with rig("tektii", every=0.05, configured={"audit": 0.0}) as r:
        since = len(r.heard)
        about = {"id": "o1", "symbol": "AAPL", "side": "BUY", "order_type": "LIMIT", "quantity": "2"}
        for event, status, filled in (("ORDER_CREATED", "OPEN", "0"), ("ORDER_CANCELLED", "CANCELLED", "1")):
            if filled == "1":
                _fill(r, "f1", "o1")
            r.simulator.tell("order", event=event, order={**about, "status": status, "filled_quantity": filled})
        _fill(r, "f2", "o1")
        await r.subscriber.until(
            lambda: ("order", "o1", "ORDER_FILLED", "FILLED", 2.0) in facts(r.on(r.account, since=since))
        )
        assert [fact[2] for fact in facts(r.on(r.account, since=since))] == [
            "ORDER_CREATED", "TRADE_FILLED", "ORDER_CANCELLED", "TRADE_FILLED", "ORDER_FILLED",
        ]  # fmt: skip
