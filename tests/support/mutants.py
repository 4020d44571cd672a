"""Mistakes that authors make, seeded into the shipped adapters: edits of the syntax tree of an adapter's module."""

import ast
import sys
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from types import ModuleType
from typing import Any

from attrs import frozen

from relay.adapter import Adapter
from relay.model.enums import OrderStatus, OrderType, PositionSide, Side

#: Changes a node in place; False where the mistake cannot be made there.
Edit = Callable[[ast.AST], bool]


@frozen
class Mutant:
    """An adapter with a mistake."""

    kind: str
    adapter: type[Adapter]

    @property
    def name(self) -> str:
        return f"{self.adapter.name}: {self.kind}"


def calls(node: ast.AST, name: str) -> dict[str, ast.keyword] | None:
    """Return the keywords of a call of ``name``; None for another node."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
        return {keyword.arg: keyword for keyword in node.keywords if keyword.arg}
    return None


def swapped(call: str, one: str, other: str) -> Edit:
    def edit(node: ast.AST) -> bool:
        given = calls(node, call) or {}
        if one not in given or other not in given:
            return False
        given[one].value, given[other].value = given[other].value, given[one].value
        return True

    return edit


def changed(call: str, code: str, *names: str) -> Edit:
    """``code`` has the old value as ``old``."""

    def edit(node: ast.AST) -> bool:
        given = calls(node, call) or {}
        needed = [each.id[4:] for each in ast.walk(ast.parse(code)) if isinstance(each, ast.Name) and "old_" in each.id]
        found = [given[name] for name in names if name in given and all(each in given for each in needed)]
        for keyword in found:
            keyword.value = _code(code, keyword.value, given)
        return bool(found)

    return edit


def dropped(call: str, *names: str) -> Edit:
    def edit(node: ast.AST) -> bool:
        given = calls(node, call) or {}
        found = [given[name] for name in names if name in given]
        for keyword in found:
            node.keywords.remove(keyword)  # type: ignore[attr-defined]
        return bool(found)

    return edit


def renamed(names: dict[str, str]) -> Edit:
    """Edit the whole module: the first of these names that it calls becomes the other one everywhere."""

    def edit(node: ast.AST) -> bool:
        if not isinstance(node, ast.Module):
            return False
        used = [each for each in ast.walk(node) if isinstance(each, ast.Call) and getattr(each.func, "id", "") in names]
        for each in used:
            each.func.id = names[each.func.id]  # type: ignore[attr-defined]
        return bool(used)

    return edit


def replaced(pattern: Callable[[ast.AST], str | None]) -> Edit:
    """Edit the whole module: every expression for which ``pattern`` returns code becomes it; ``old`` is the expression."""

    class Replace(ast.NodeTransformer):
        count = 0

        def generic_visit(self, node: ast.AST) -> ast.AST:
            code = pattern(node)
            if code is not None:
                self.count += 1
                return _code(code, node, {})  # type: ignore[arg-type]
            return super().generic_visit(node)

    def edit(node: ast.AST) -> bool:
        if not isinstance(node, ast.Module):
            return False
        replace = Replace()
        node.body = [replace.visit(each) for each in node.body]
        return replace.count > 0

    return edit


def _code(code: str, old: ast.expr, given: dict[str, ast.keyword]) -> ast.expr:
    class Fill(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.expr:
            if node.id == "old":
                return deepcopy(old)
            return deepcopy(given[node.id[4:]].value) if node.id.startswith("old_") else node

    return Fill().visit(ast.parse(code, mode="eval").body)  # type: ignore[no-any-return]


def _of_side(node: ast.AST) -> str | None:
    match node:
        case ast.Attribute(value=ast.Name(id="Side"), attr="BUY" | "SELL" as side):
            return "Side.SELL" if side == "BUY" else "Side.BUY"
        case ast.Call(func=ast.Name(id="Side")):
            return "{'BUY': Side.SELL, 'SELL': Side.BUY}[old]"
    return None


def _of_ack(node: ast.AST) -> str | None:
    match node:
        case ast.Call(func=ast.Name(id="Ack")) | ast.Call(func=ast.Attribute(attr="accepted")):
            return "Alive()"
    return None


def _of_done(node: ast.AST) -> str | None:
    match node:
        case ast.Call(func=ast.Name(id="Ack"), args=[_], keywords=[]):
            return "__import__('attrs').evolve(old, done=False)"
    return None


def _of_native(node: ast.AST) -> str | None:
    match node:
        case ast.Call(func=ast.Attribute(attr="native", value=ast.Name(id="self")), args=[argument]):
            return ast.unparse(argument)
    return None


def _of_book(node: ast.AST) -> str | None:
    match node:
        case ast.Attribute(value=ast.Name(id="Book"), attr="DELTAS" | "FETCHED"):
            return "Book.SNAPSHOTS"
        case ast.Attribute(value=ast.Name(id="Book"), attr="SNAPSHOTS"):
            return "Book.DELTAS"
    return None


def _of_unsubscribe(node: ast.AST) -> str | None:
    match node:
        case ast.Constant(value=str() as word) if "unsub" in word.lower() and len(word) < 20:
            return repr(word.replace("UNSUB", "SUB").replace("unsub", "sub"))
    return None


def _silent(node: ast.AST) -> bool:
    """Let ``encode`` write nothing for Unsubscribe."""
    if isinstance(node, ast.FunctionDef) and node.name == "encode":
        guard = ast.parse("if isinstance(outgoing, Unsubscribe):\n    return").body
        node.body = [*guard, *node.body]
        return True
    return False


def _misspelt(node: ast.AST) -> bool:
    """Misspell the first member of the first frame that is written."""
    match node:
        case ast.Call(func=ast.Name(id="dumps"), args=[ast.Dict(keys=[ast.Constant(value=str(word)) as first, *_])]):
            first.value = f"{word}s"
            return True
    return False


def _first_only(node: ast.AST) -> bool:
    """Read only the first element of a list."""
    match node:
        case ast.YieldFrom(value=ast.Call(func=ast.Name(id="map"), args=[_, values])):
            node.value.args[1] = _code("old[:1]", values, {})  # type: ignore[attr-defined]
            return True
        case ast.YieldFrom(value=ast.GeneratorExp(generators=[generator])):
            generator.iter = _code("old[:1]", generator.iter, {})
            return True
    return False


UNITS = {
    "from_millis": "from_seconds",
    "from_micros": "from_millis",
    "from_seconds": "from_millis",
    "from_nanos": "from_micros",
}
LEVELS = "[(each[1], each[0], *each[2:]) for each in old]"
EDITS: dict[str, Edit] = {
    "bid and ask swapped": swapped("Quote", "bid", "ask"),
    "sizes of a quote swapped": swapped("Quote", "bid_size", "ask_size"),
    "price and size of a quote swapped": swapped("Quote", "bid", "bid_size"),
    "last is the bid": changed("Quote", "old_bid", "last"),
    "last is the volume": changed("Quote", "old_volume", "last"),
    "time of quotes left out": dropped("Quote", "time", "timestamp"),
    "members of quotes left out": dropped("Quote", "data"),
    "native symbol in quotes": changed("Quote", "old_native_symbol", "symbol"),
    "bids and asks swapped": swapped("Depth", "bids", "asks"),
    "price and size of levels swapped": changed("Depth", LEVELS, "bids", "asks"),
    "removals left out": changed("Depth", "[each for each in old if str(each[1]).strip('0.')]", "bids", "asks"),
    "asks left out": changed("Depth", "()", "asks"),
    "snapshot inverted": changed("Depth", "not old", "snapshot"),
    "everything is a snapshot": changed("Depth", "True", "snapshot"),
    "nothing is a snapshot": changed("Depth", "False", "snapshot"),
    "last_seq left out": dropped("Depth", "last_seq"),
    "first_seq left out": dropped("Depth", "first_seq"),
    "first_seq off by one": changed("Depth", "None if old is None else old + 1", "first_seq"),
    "time of books left out": dropped("Depth", "timestamp"),
    "price and size of trades swapped": swapped("PublicTrade", "price", "quantity"),
    "time of trades left out": dropped("PublicTrade", "time", "timestamp"),
    "id of trades left out": dropped("PublicTrade", "id"),
    "members of trades left out": dropped("PublicTrade", "data"),
    "native symbol in trades": changed("PublicTrade", "old_native_symbol", "symbol"),
    "float price": changed("PublicTrade", "float(old)", "price"),
    "maker's side": replaced(_of_side),
    "high and low swapped": swapped("Candle", "high", "low"),
    "open and close swapped": swapped("Candle", "open", "close"),
    "volume is the close": changed("Candle", "old_close", "volume"),
    "members of candles left out": dropped("Candle", "data"),
    "time in another unit": renamed(UNITS),
    "acknowledgement not read": replaced(_of_ack),
    "acknowledgement taken for an end": replaced(_of_done),
    "canonical symbol in frames": replaced(_of_native),
    "another kind of book": replaced(_of_book),
    "no Sequence": dropped("Session", "sequence"),
    "Unsubscribe writes nothing": _silent,
    "Unsubscribe writes Subscribe": replaced(_of_unsubscribe),
    "only the first element": _first_only,
    "a member of frames misspelt": _misspelt,
}


def _of_complete(node: ast.AST) -> str | None:
    match node:
        case ast.Call(func=ast.Name(id="Complete")):
            return "Alive()"
    return None


def _reconciles_nothing(node: ast.AST) -> bool:
    """Let ``encode`` write nothing for Reconcile."""
    if isinstance(node, ast.FunctionDef) and node.name == "encode":
        guard = ast.parse("if isinstance(outgoing, Reconcile):\n    return").body
        node.body = [*guard, *node.body]
        return True
    return False


OTHER_SIDE = "{Side.BUY: Side.SELL, Side.SELL: Side.BUY}[Side(old)]"
#: Mistakes about orders, fills, positions and money.
ACCOUNT_EDITS: dict[str, Edit] = {
    "side of orders inverted": changed("Order", OTHER_SIDE, "side"),
    "side of fills inverted": changed("Trade", OTHER_SIDE, "side"),
    "client_order_id left out": dropped("Order", "client_order_id"),
    "price and quantity of fills swapped": swapped("Trade", "price", "quantity"),
    "fill named as its order": changed("Trade", "old_order_id", "id"),
    "order of a fill is its own id": changed("Trade", "old_id", "order_id"),
    "filled quantity is the whole": changed("Order", "old_quantity", "filled_quantity"),
    "quantity is the filled one": changed("Order", "old_filled_quantity", "quantity"),
    "filled quantity left out": dropped("Order", "filled_quantity"),
    "limit left out": dropped("Order", "limit_price"),
    "limit is the average": changed("Order", "old_average_fill_price", "limit_price"),
    "average left out": dropped("Order", "average_fill_price"),
    "times of orders left out": dropped("Order", "created_at", "updated_at", "timestamp"),
    "time of fills left out": dropped("Trade", "time", "timestamp"),
    "every order is open": changed("Order", "OrderStatus.OPEN", "status"),
    "every order is filled": changed("Order", "OrderStatus.FILLED", "status"),
    "ended is open": changed("Order", "OrderStatus.OPEN if OrderStatus(old).is_final else old", "status"),
    "cancelled is filled": changed(
        "Order", "OrderStatus.FILLED if OrderStatus(old) is OrderStatus.CANCELLED else old", "status"
    ),
    "rejected is cancelled": changed(
        "Order", "OrderStatus.CANCELLED if OrderStatus(old) is OrderStatus.REJECTED else old", "status"
    ),
    "side of positions inverted": changed(
        "Position",
        "{PositionSide.LONG: PositionSide.SHORT, PositionSide.SHORT: PositionSide.LONG}[PositionSide(old)]",
        "side",
    ),
    "entry left out": dropped("Position", "average_entry_price"),
    "quantity and entry of positions swapped": swapped("Position", "quantity", "average_entry_price"),
    "native symbol in orders": changed("Order", "old_native_symbol", "symbol"),
    "native symbol in fills": changed("Trade", "old_native_symbol", "symbol"),
    "native symbol in positions": changed("Position", "old_native_symbol", "symbol"),
    "balance and equity swapped": swapped("Account", "balance", "equity"),
    "margins swapped": swapped("Account", "margin_used", "margin_available"),
    "equity left out": dropped("Account", "equity"),
    "reason of a refusal left out": dropped("Order", "reject_reason"),
    "order type inverted": changed(
        "Order", "OrderType.MARKET if OrderType(old) is OrderType.LIMIT else OrderType.LIMIT", "order_type"
    ),
    "order named as its client does": changed("Order", "old_client_order_id or old", "id"),
    "position named by its order": changed("Position", "old_symbol", "id"),
    "lists not complete": replaced(_of_complete),
    "reconciles nothing": _reconciles_nothing,
    "account not acknowledged": replaced(_of_ack),
}


def account_mutants(adapter: type[Adapter]) -> Iterator[Mutant]:
    """Yield a broker's adapter with each of the mistakes about its account."""
    yield from mutants(adapter, edits=ACCOUNT_EDITS)


def mutants(adapter: type[Adapter], *kinds: str, edits: Mapping[str, Edit] = EDITS) -> Iterator[Mutant]:
    """Yield an adapter with each of the mistakes (all) that its module has a place for, each made at the first one."""
    module = sys.modules[adapter.__module__]
    path = str(module.__file__)
    tree = ast.parse(Path(path).read_text("utf-8"))
    for kind, edit in edits.items():
        if kinds and kind not in kinds:
            continue
        edited = deepcopy(tree)
        if any(edit(node) for node in _in_order(edited)):
            made = ModuleType(module.__name__)
            words = {each.__name__: each for each in (OrderStatus, OrderType, PositionSide, Side)}
            made.__dict__.update({"__file__": path, **words, **{name: _unit(name) for name in UNITS}})
            exec(compile(ast.fix_missing_locations(edited), path, "exec"), made.__dict__)
            yield Mutant(kind, getattr(made, adapter.__name__))


def _in_order(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _in_order(child)


def _unit(name: str) -> Any:
    import relay.model.text

    return getattr(relay.model.text, name)
