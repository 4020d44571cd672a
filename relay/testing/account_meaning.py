"""Checks of what an adapter's events say of an account: orders, fills, positions and money.

The rules are as those of `relay.testing.meaning`: they go by the provider's own names and words, and by arithmetic, and say
something only where the recording proves it.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from decimal import Decimal

from relay.model.enums import OrderStatus, OrderType
from relay.model.events import Account, Order, Trade
from relay.testing.meaning import Leaf, at, leaves, reading
from relay.testing.subject import Subject
from relay.testing.trial import Made


def orders(of: Subject) -> Iterator[str]:
    """An order that ended stays so, its filled quantity does not fall, and its fills sum up to it."""
    states: dict[str, Order] = {}
    fills: dict[str, dict[str, Decimal]] = defaultdict(dict)
    last: dict[str, Made] = {}
    for event, made in reading(of).of(Order, Trade):
        if isinstance(event, Trade):
            fills[event.order_id][event.id] = Decimal(event.quantity)
            last[event.order_id] = made
            continue
        before = states.get(event.id)
        if before is not None and before.created_at != event.created_at:
            before = None  # another order of the same number
        if made.streamed:
            states[event.id] = event
        if event.quantity is not None and event.filled_quantity is not None:
            if Decimal(event.filled_quantity) > Decimal(event.quantity):
                yield at(made, "filled_quantity", f"{event.filled_quantity} is more than the quantity {event.quantity}")
            left = event.remaining_quantity
            if (
                left is not None
                and event.status in (OrderStatus.OPEN, OrderStatus.PARTIALLY_FILLED)
                and (Decimal(left) + Decimal(event.filled_quantity) != Decimal(event.quantity))
            ):
                yield at(
                    made,
                    "remaining_quantity",
                    f"{left} and the filled {event.filled_quantity} are not {event.quantity}",
                )
            if event.status is OrderStatus.FILLED and Decimal(event.filled_quantity) == 0 < Decimal(event.quantity):
                yield at(made, "filled_quantity", "0, though the order is filled")
        if event.status is OrderStatus.PARTIALLY_FILLED and event.filled_quantity == "0":
            yield at(made, "filled_quantity", "0, though the order is partially filled")
        if before is None or not made.streamed:
            continue
        if before.status.is_final and not event.status.is_final:
            yield at(made, "status", f"{event.status} after {before.status}")
        now, then = event.filled_quantity, before.filled_quantity
        if now is not None and then is not None and Decimal(now) < Decimal(then):
            yield at(made, "filled_quantity", f"{now} after {then}")
    for id, several in fills.items():
        order, total = states.get(id), sum(several.values())
        if order is not None and order.filled_quantity is not None and total > Decimal(order.filled_quantity):
            yield at(
                last[id], "quantity", f"the fills of order {id} sum up to {total}, it says {order.filled_quantity}"
            )


#: Words of a state that mean the same everywhere, without their letters' case.
_STATES = {
    "filled": {OrderStatus.FILLED},
    "cancelled": {OrderStatus.CANCELLED},
    "canceled": {OrderStatus.CANCELLED},
    "rejected": {OrderStatus.REJECTED},
    "expired": {OrderStatus.EXPIRED},
    "working": {OrderStatus.OPEN, OrderStatus.PARTIALLY_FILLED},
    "open": {OrderStatus.OPEN, OrderStatus.PARTIALLY_FILLED},
}
_TYPES = {"market": OrderType.MARKET, "limit": OrderType.LIMIT, "stop": OrderType.STOP}
_names_state = re.compile(r"state|status", re.IGNORECASE).search
_names_filled = re.compile(r"^(cum|exec)|fill", re.IGNORECASE).search
_names_no_quantity = re.compile(
    r"price|px|avg|average|time|date|at$|id$|count|value|fee|left|remain", re.IGNORECASE
).search
_names_reason = re.compile(r"reason|reject", re.IGNORECASE).search


def states(of: Subject) -> Iterator[str]:
    """An order has the state, the type, the filled quantity and the reason that stand beside its id."""
    for order, made in reading(of).of(Order):
        beside = _beside(made, order.id)
        words = [leaf.value.lower() for leaf in beside if _names_state(leaf.name)]
        meant = [_STATES[word] for word in words if word in _STATES]
        if len(words) == 1 and meant and order.status not in meant[0]:
            yield at(made, "status", f"{order.status}, but the message says {words[0]}")
        types = {word for leaf in beside for word in leaf.words if word in _TYPES}
        if len(types) == 1 and order.order_type in (OrderType.MARKET, OrderType.LIMIT):
            word = types.pop()
            if _TYPES[word] is not order.order_type:
                yield at(made, "order_type", f"{order.order_type}, but the message says {word}")
        filled = [
            leaf
            for leaf in beside
            if _names_filled(leaf.name) and not _names_no_quantity(leaf.name) and _is_number(leaf.value)
        ]
        if filled and all(order.filled_quantity != leaf.value for leaf in filled):
            yield at(
                made,
                "filled_quantity",
                f"{order.filled_quantity}, but the message's {filled[0].name} is {filled[0].value}",
            )
        reasons = [leaf for leaf in beside if _names_reason(leaf.name) and leaf.value]
        if order.status is OrderStatus.REJECTED and reasons and order.reject_reason is None and order.data is None:
            yield at(made, "reject_reason", f"left out, but the message says {reasons[0].value!r:.64}")


def _beside(made: Made, id: str) -> list[Leaf]:
    """Return the scalars of the object that has this id; nothing where several have."""
    found = leaves(made.text)
    containers = {leaf.container for leaf in found if leaf.value == id}
    return [leaf for leaf in found if leaf.container in containers] if len(containers) == 1 else []


def _is_number(value: str) -> bool:
    return value.replace(".", "", 1).isdigit()


_names_used = re.compile(r"used|init|maint|blocked|reserved|^margin$", re.IGNORECASE).search
_names_free = re.compile(r"free|avail", re.IGNORECASE).search
#: Fields of an account, and names that say the contrary of each.
_CONTRARY: dict[str, Callable[[str], object]] = {
    "margin_used": _names_free,
    "margin_available": lambda name: _names_used(name) and not _names_free(name),
    "balance": lambda name: "equity" in name.lower(),
    "equity": lambda name: "balance" in name.lower(),
}


def money(of: Subject) -> Iterator[str]:
    """The money of an account stands under names that do not say the contrary, and what is named like a field is in it."""
    for account, made in reading(of).of(Account):
        for field, is_contrary in _CONTRARY.items():
            value = getattr(account, field)
            if value is None and made.streamed and any(leaf.name.lower() == field for leaf in leaves(made.text)):
                yield at(made, field, "left out, but the message has it")
            found = [leaf for leaf in leaves(made.text) if leaf.value == value] if value is not None else []
            if found and all(is_contrary(leaf.name) for leaf in found):
                yield at(made, field, f"{value} is the provider's {found[0].name}")


ACCOUNT_RULES: tuple[Callable[[Subject], Iterator[str]], ...] = (orders, states, money)
