"""The add-on of the simulated CrossTrade: its functions, on a small market and the accounts of one NinjaTrader.

The names are those of https://docs.crosstrade.io/api/websocket-api. Documented are the arguments of PlaceOrder, GetQuote and
GetAllPositions; for the others this add-on takes ``account``, ``instrument`` and ``orderId``, and what CancelOrders is not
told it does not mind: without ``orderId`` it cancels every order of the account. A refusal is ``{"success": false, "error",
"detail"}``; of its codes only ``invalid_account`` is documented.
"""

import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from relay.model.enums import OrderStatus, OrderType, Side, TimeInForce
from relay.testing.market import Market, units
from relay.testing.trading import Change, OrderMoved, Refusal, Ticket
from relay_crosstrade import payloads
from relay_crosstrade.payloads import Contract, FuturesAccount, Payload

ORDER_TYPES = {
    "MARKET": OrderType.MARKET,
    "LIMIT": OrderType.LIMIT,
    "STOPMARKET": OrderType.STOP,
    "STOPLIMIT": OrderType.STOP_LIMIT,
}
_REQUIRED = ("account", "instrument", "action", "quantity", "orderType", "timeInForce")
_MONTHS = "FGHJKMNQUVXZ"

Args = Mapping[str, Any]


class BadRequest(Exception):
    """Arguments that are missing or of the wrong type."""


def aliases(contract: Contract) -> Iterable[str]:
    """Every way to write an instrument: ``ES 09-26``, ``ES``, ``ES1!``, ``ESU26``."""
    root, expiry = contract.symbol.split(" ")
    month, year = expiry.split("-")
    return contract.symbol, root, f"{root}1!", f"{root}{_MONTHS[int(month) - 1]}{year}"


class Desk:
    """The functions of the add-on.

    Args:
        accounts: names of NinjaTrader's accounts.
        clock: Unix nanoseconds.
    """

    def __init__(
        self, contracts: Iterable[Contract], accounts: Iterable[str], *, seed: int, clock: Callable[[], int]
    ) -> None:
        self.contracts = {contract.symbol: contract for contract in contracts}
        self._names = {alias: contract.symbol for contract in self.contracts.values() for alias in aliases(contract)}
        self.market = Market((each.instrument for each in self.contracts.values()), seed=seed, start_ns=clock())
        values = {contract.symbol: contract.point_value for contract in self.contracts.values()}
        self.accounts = {name: FuturesAccount(self.market, name, values) for name in accounts}
        self._orders: dict[str, str] = {}
        self._clock = clock
        self._functions: Mapping[str, Callable[[Args], Payload]] = {
            "PlaceOrder": self._place,
            "CancelOrders": self._cancel,
            "ClosePosition": self._close,
            "GetPosition": self._position,
            "GetAllPositions": self._positions,
            "ListAccounts": self._list_accounts,
            "GetQuote": lambda args: payloads.full_quote(self.market, self._contract(args)),
        }

    def call(self, api: str, args: Args) -> Payload:
        """The body of the function's answer."""
        function = self._functions.get(api)
        try:
            if function is None:
                raise Refusal("unknown_function", f"no such function: {api[:64]}")
            return function(args)
        except Refusal as refusal:
            return {"success": False, "error": refusal.code.lower(), "detail": str(refusal)}
        except (BadRequest, KeyError, TypeError, ValueError):
            return {"error": "Invalid request"}

    def step(self) -> None:
        """Move the market once; orders see it."""
        self.market.step(self._clock())
        for account in self.accounts.values():
            account.step(self._clock())

    def symbol(self, name: Any) -> str | None:
        """The instrument written as ``name``."""
        return self._names.get(name) if isinstance(name, str) else None

    # --- functions ---------------------------------------------------------------------------------------------------

    def _place(self, args: Args) -> Payload:
        if any(args.get(name) is None for name in _REQUIRED):
            raise BadRequest
        account, contract = self._account(args), self._contract(args)
        instrument = contract.instrument
        limit, stop = (None if (price := args.get(name)) is None else units(str(price), instrument.decimals)
                       for name in ("limitPrice", "stopPrice"))  # fmt: skip
        time_in_force = str(args["timeInForce"]).upper()
        if time_in_force not in ("DAY", "GTC"):
            raise BadRequest
        ticket = Ticket(
            symbol=contract.symbol,
            side=Side(str(args["action"]).upper()),
            quantity=units(str(args["quantity"]), instrument.size_decimals),
            order_type=ORDER_TYPES[str(args["orderType"]).upper()],
            time_in_force=TimeInForce(time_in_force),
            limit=limit,
            stop=stop,
        )
        return {"orderId": self._ordered(account, account.place(ticket, self._clock())), "success": True}

    def _ordered(self, account: FuturesAccount, changes: list[Change]) -> str:
        """The id, as NinjaTrader writes ids, of the order that was placed."""
        order = next(change.order for change in changes if isinstance(change, OrderMoved))
        if order.status is OrderStatus.REJECTED:
            raise Refusal("order_rejected", order.reason or "")
        id = uuid.uuid5(uuid.NAMESPACE_OID, f"{account.id} {order.id}").hex
        self._orders[id] = order.id
        return id

    def _cancel(self, args: Args) -> Payload:
        account = self._account(args)
        id = args.get("orderId")
        everything = [order.id for order in account.open_orders()]
        for order in everything if id is None else [self._orders.get(id, str(id))]:
            account.cancel(order, self._clock())
        return {"success": True}

    def _close(self, args: Args) -> Payload:
        account, symbol = self._account(args), self._contract(args).symbol
        if symbol not in account.positions:
            raise Refusal("no_position", f"{account.id} has no position in {symbol}")
        changes = account.close(account.positions[symbol].id, self._clock())
        return {"orderId": self._ordered(account, changes), "success": True}

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
            raise Refusal("invalid_account", f"Account {str(name)[:64]} not found")
        return account

    def _contract(self, args: Args) -> Contract:
        symbol = self.symbol(args["instrument"])
        if symbol is None:
            raise Refusal("invalid_instrument", f"Instrument {str(args['instrument'])[:64]} not found")
        return self.contracts[symbol]
