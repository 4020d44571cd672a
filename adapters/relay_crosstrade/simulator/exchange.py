"""The add-on of the simulated CrossTrade: its functions, on a small market and the accounts of one NinjaTrader.

Names, arguments, answers and the refusals of Cancel and ClosePosition are those of the pages under
https://crosstrade.io/docs/api and https://docs.crosstrade.io/api; the adapter's README names them one by one. Where the
pages do not speak, this add-on's choices are:

- ListOrders and GetAllOrders answer as GetAllPositions does: ``orders``, ``count``, ``success``; ``activeOnly`` leaves out
  what has ended; GetAllOrders and GetOrder are as their names, and the pages beside theirs, let one expect;
- closing the whole of a position, as Flatten does, cancels the instrument's working orders of the account;
- a refusal without a page is ``{"success": false, "error", "detail"}``; of its codes only ``invalid_account`` is documented.
"""

import uuid
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from functools import lru_cache
from math import ceil
from typing import Any

from relay.model.enums import OrderStatus, OrderType, Side, TimeInForce
from relay.testing.account import Change, OrderMoved, PlacedOrder, SimulatedRefusal, Ticket
from relay.testing.market import Market, Units, units
from relay_crosstrade.simulator import payloads
from relay_crosstrade.simulator.payloads import Contract, FuturesAccount, Payload

ORDER_TYPES = {
    "MARKET": OrderType.MARKET,
    "LIMIT": OrderType.LIMIT,
    "STOPMARKET": OrderType.STOP,
    "STOPLIMIT": OrderType.STOP_LIMIT,
}
_OPEN = (OrderStatus.OPEN, OrderStatus.PARTIALLY_FILLED)
_REQUIRED = ("account", "instrument", "action", "quantity", "orderType", "timeInForce")
_MONTHS = "FGHJKMNQUVXZ"

Args = Mapping[str, Any]


class BadRequest(Exception):
    """Arguments that are missing or of the wrong type."""


class Refused(Exception):
    """A refusal whose whole sentence is documented."""


@lru_cache(maxsize=4096)
def named(*what: str) -> str:
    """Return an id in NinjaTrader's form."""
    return uuid.uuid5(uuid.NAMESPACE_OID, " ".join(what)).hex


def aliases(contract: Contract) -> Iterable[str]:
    """Return every way to write an instrument: ``ES 09-26``, ``ES``, ``ES1!``, ``ESU26``."""
    root, expiry = contract.symbol.split(" ")
    month, year = expiry.split("-")
    return contract.symbol, root, f"{root}1!", f"{root}{_MONTHS[int(month) - 1]}{year}"


class SimulatedExchange:
    """The functions of the add-on.

    Args:
        accounts: names of NinjaTrader's accounts.
        clock: Unix nanoseconds.

    Attributes:
        renames: orders are listed, and named by executions, under another id than the one PlaceOrder gave, as brokers do
            with NinjaTrader's; functions find them by both.
    """

    def __init__(
        self, contracts: Iterable[Contract], accounts: Iterable[str], *, seed: int, clock: Callable[[], int]
    ) -> None:
        self.contracts = {contract.symbol: contract for contract in contracts}
        self._names = {alias: contract.symbol for contract in self.contracts.values() for alias in aliases(contract)}
        self.market = Market((each.instrument for each in self.contracts.values()), seed=seed, start_ns=clock())
        values = {contract.symbol: contract.point_value for contract in self.contracts.values()}
        self.accounts = {name: FuturesAccount(self.market, name, values) for name in accounts}
        self.renames = False
        self._senders: dict[str, str] = {}
        self._clock = clock
        self._functions: Mapping[str, Callable[[Args], Payload]] = {
            "PlaceOrder": self._place,
            "Cancel": self._cancel,
            "Change": self._change,
            "CancelOrders": lambda args: {"orderIds": self._cancel_all(args), "success": True},
            "ClosePosition": self._close,
            "Flatten": self._flatten,
            "GetOrder": lambda args: {**self._shown(*self._order(args)), "success": True},
            "GetOrderStatus": lambda args: {"status": self._shown(*self._order(args))["orderState"], "success": True},
            "ListOrders": lambda args: self._orders(args, [self._account(args)]),
            "GetAllOrders": lambda args: self._orders(args, self.accounts.values()),
            "ListExecutions": self._executions,
            "GetPosition": self._position,
            "GetAllPositions": self._positions,
            "ListAccounts": self._list_accounts,
            "GetQuote": lambda args: payloads.full_quote(self.market, self._contract(args)),
        }

    def call(self, api: str, args: Args) -> Payload:
        """Return the body of the function's answer."""
        function = self._functions.get(api)
        try:
            if function is None:
                raise Refused("Unknown API command")
            return function(args)
        except SimulatedRefusal as refusal:
            return {"success": False, "error": refusal.code.lower(), "detail": str(refusal)}
        except Refused as refusal:
            return {"error": str(refusal)}
        except (BadRequest, KeyError, TypeError, ValueError):
            return {"error": "Invalid request"}

    def step(self) -> None:
        """Move the market once; orders see it."""
        self.market.step(self._clock())
        for account in self.accounts.values():
            account.step(self._clock())

    def symbol(self, name: Any) -> str | None:
        """Return the instrument written as ``name``."""
        return self._names.get(name) if isinstance(name, str) else None

    # --- orders ------------------------------------------------------------------------------------------------------

    def _place(self, args: Args) -> Payload:
        if any(args.get(name) is None for name in _REQUIRED):
            raise BadRequest
        account, contract = self._account(args), self._contract(args)
        time_in_force = str(args["timeInForce"]).upper()
        if time_in_force not in ("DAY", "GTC"):
            raise BadRequest
        ticket = Ticket(
            symbol=contract.symbol,
            side=Side(str(args["action"]).upper()),
            quantity=units(str(args["quantity"]), contract.instrument.size_decimals),
            order_type=ORDER_TYPES[str(args["orderType"]).upper()],
            time_in_force=TimeInForce(time_in_force),
            limit=_price(args, "limitPrice", contract),
            stop=_price(args, "stopPrice", contract),
        )
        order = self._placed(account.place(ticket, self._clock()))
        id = named(account.id, order.id)
        if isinstance(args.get("orderId"), str):
            self._senders[args["orderId"]] = id
        return {"orderId": id, "success": True}

    def _placed(self, changes: list[Change]) -> PlacedOrder:
        order = next(change.order for change in changes if isinstance(change, OrderMoved))
        if order.status is OrderStatus.REJECTED:
            raise SimulatedRefusal("order_rejected", order.reason or "")
        return order

    def _order(self, args: Args) -> tuple[FuturesAccount, PlacedOrder]:
        """Return the order that is meant, by any of its ids."""
        account, asked = self._account(args), args["orderId"]
        id = self._senders.get(asked, asked)
        for order in account.orders.values():
            if id in (named(account.id, order.id), named("broker", account.id, order.id)):
                return account, order
        raise Refused(f"Order linked to '{asked}' not found or already terminal.")

    def _working(self, args: Args) -> tuple[FuturesAccount, PlacedOrder]:
        account, order = self._order(args)
        if order.status not in _OPEN:
            raise Refused(f"Order linked to '{args['orderId']}' not found or already terminal.")
        return account, order

    def _cancel(self, args: Args) -> Payload:
        account, order = self._working(args)
        account.cancel(order.id, self._clock())
        return {"orderId": args["orderId"], "success": True}

    def _change(self, args: Args) -> Payload:
        account, order = self._working(args)
        contract = self.contracts[order.ticket.symbol]
        quantity = args.get("quantity")
        account.amend(
            order.id,
            self._clock(),
            quantity=None if quantity is None else units(str(quantity), contract.instrument.size_decimals),
            limit=_price(args, "limitPrice", contract),
            stop=_price(args, "stopPrice", contract),
        )
        return {"orderId": args["orderId"], "success": True}

    def _cancel_all(self, args: Args) -> list[str]:
        account = self._account(args)
        symbol = None if args.get("instrument") is None else self._contract(args).symbol
        meant = [order for order in account.open_orders() if symbol in (None, order.ticket.symbol)]
        for order in meant:
            account.cancel(order.id, self._clock())
        return [self._shown(account, order)["orderId"] for order in meant]

    def _shown(self, account: FuturesAccount, order: PlacedOrder) -> Payload:
        return payloads.order(self.market, account.id, self._id(account, order.id), order)

    def _id(self, account: FuturesAccount, order: str) -> str:
        return named("broker", account.id, order) if self.renames else named(account.id, order)

    def _orders(self, args: Args, accounts: Iterable[FuturesAccount]) -> Payload:
        every = args.get("activeOnly") is not True
        found = [
            self._shown(account, order)
            for account in accounts
            for order in account.orders.values()
            if every or order.status in _OPEN
        ]
        return {"orders": found, "count": len(found), "success": True}

    def _executions(self, args: Args) -> Payload:
        account, lookback = self._account(args), args.get("lookbackTime", 320)
        if not isinstance(lookback, int) or not 0 < lookback <= 900:
            raise BadRequest
        since = self._clock() - lookback * 1_000_000_000
        found = [
            payloads.execution(
                self.market, account.id, named(account.id, fill.id), self._id(account, fill.order_id), fill
            )
            for fill in account.fills
            if fill.time_ns >= since
        ]
        return {"executions": found, "success": True}

    # --- positions and the rest --------------------------------------------------------------------------------------

    def _close(self, args: Args) -> Payload:
        account, symbol = self._account(args), self._contract(args).symbol
        held = account.positions.get(symbol)
        if held is None:
            raise Refused(f"No positions found for instrument '{args['instrument']}'")
        quantity = held.quantity
        if args.get("quantity") is not None:
            quantity = min(quantity, units(str(args["quantity"]), 0))
        elif args.get("percent") is not None:
            quantity = ceil(quantity * Fraction(str(args["percent"])))
        closing = payloads.position(self.market, account, symbol, held)
        if quantity == held.quantity:
            self._cancel_all(args)
        self._placed(account.close(held.id, self._clock(), quantity))
        return {"closedPositions": [closing], "success": True}

    def _flatten(self, args: Args) -> Payload:
        account = self._account(args)
        symbols = [self._contract(args).symbol] if args.get("instrument") is not None else list(account.positions)
        self._cancel_all(args)
        closed = [self._close({"account": account.id, "instrument": symbol}) for symbol in symbols]
        return {"closedPositions": [each for answer in closed for each in answer["closedPositions"]], "success": True}

    def _position(self, args: Args) -> Payload:
        account, symbol = self._account(args), self._contract(args).symbol
        held = account.positions.get(symbol)
        return {**payloads.position(self.market, account, symbol, held), "success": True}

    def _positions(self, args: Args) -> Payload:
        found = payloads.positions(self.market, self.accounts.values(), flat=args.get("includeFlat") is True)
        return {"positions": found, "count": len(found), "success": True}

    def _list_accounts(self, args: Args) -> Payload:
        listed = [payloads.account(number, each) for number, each in enumerate(self.accounts.values(), start=15)]
        return {"accounts": listed, "success": True}

    def _account(self, args: Args) -> FuturesAccount:
        name = args["account"]
        account = self.accounts.get(name)
        if account is None:
            raise SimulatedRefusal("invalid_account", f"Account {str(name)[:64]} not found")
        return account

    def _contract(self, args: Args) -> Contract:
        symbol = self.symbol(args["instrument"])
        if symbol is None:
            raise SimulatedRefusal("invalid_instrument", f"Instrument {str(args['instrument'])[:64]} not found")
        return self.contracts[symbol]


def _price(args: Args, name: str, contract: Contract) -> Units | None:
    price = args.get(name)
    return None if price is None else units(str(price), contract.instrument.decimals)
