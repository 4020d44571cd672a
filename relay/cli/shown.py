"""A reply as people read it: nothing of it is cut, whatever the width of the terminal."""

import json
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

#: Width where the output is no terminal.
_WIDTH = 250
_ENDLESS = 100_000


def show(body: dict[str, Any]) -> None:
    """Print a reply for people."""
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    head = Table("outcome", "command", "provider", "account", box=None, pad_edge=False)
    head.add_row(*(str(body.get(name, "")) for name in ("outcome", "command_id", "provider", "account")))
    console.print(head)
    found = body.get("error") if body.get("error") is not None else body.get("result")
    for table in () if found is None else _tables(found, console):
        console.print(table)


def _tables(found: Any, console: Console) -> Iterator[Table]:
    """A list of objects row by row, also where it is the one list there is in an object; any other object by its members."""
    if isinstance(found, dict):
        lists = [name for name, value in found.items() if _is_list(value)]
        one = lists[0] if len(lists) == 1 else None
        if rest := {name: value for name, value in found.items() if name != one}:
            yield _members(rest)
        if one is not None:
            yield from _records(found[one], console)
    elif _is_list(found):
        yield from _records(found, console)
    else:
        yield _members({"": found})


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in value)


def _records(found: list[dict[str, Any]], console: Console) -> Iterator[Table]:
    """One row each, or one table each where a row would not fit into a line."""
    columns = list(dict.fromkeys(name for each in found for name in each))
    table = Table(*columns, box=None, pad_edge=False)
    for each in found:
        table.add_row(*(_cell(each.get(name)) for name in columns))
    if console.measure(table, options=console.options.update(width=_ENDLESS)).maximum <= console.width:
        yield table
        return
    for number, each in enumerate(found):
        if number:
            yield Table(box=None)
        yield _members(each)


def _members(found: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in found.items():
        if isinstance(value, dict) and value:
            for inner, each in value.items():
                table.add_row(f"{name}.{inner}", _cell(each))
        else:
            table.add_row(name, _cell(value))
    return table


def _cell(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)
