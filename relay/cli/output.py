"""Output of commands: tables, JSON, lines of text, and a progress indicator."""

import json
import os
import select
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

#: Width of tables if standard output is not a terminal, so that lines are not wrapped.
WIDE = 250


def say_error(text: str) -> None:
    """Write a line to standard error. If the volume is full, or the pipe is closed or not read, the line is lost."""
    stream = cast("TextIO | None", sys.stderr)
    if stream is None:
        return
    try:
        fd = stream.fileno()
    except (OSError, ValueError):
        print(text, file=stream)
        return
    try:
        stream.flush()
        if select.select((), (fd,), (), 1.0)[1]:
            os.write(fd, f"{text}\n".encode("utf-8", "backslashreplace"))
    except OSError:
        return


def say(*lines: str) -> None:
    """Write lines to standard error."""
    for line in lines:
        say_error(f"tickrelay: {line}")


def print_json(value: Any) -> None:
    """Print JSON, indented for a terminal, on one line otherwise."""
    print(json.dumps(value, indent=2 if sys.stdout.isatty() else None, ensure_ascii=False, default=str), flush=True)


def console() -> "Console":
    """Return the console of standard output. Lines are not wrapped if that is a pipe."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else WIDE, highlight=False)


def table_of(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> "Table":
    """Return a table without lines. Texts of others are shown as they are, not as rich's markup."""
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, pad_edge=False, title=title, title_justify="left", title_style="bold")
    for row in rows:
        table.add_row(*(Text.from_ansi(each) if each.isprintable() else repr(each) for each in row))
    return table


def print_table(table: "Table") -> None:
    """Print a table."""
    console().print(table)


class Busy:
    """A sign of life on standard error while a command waits, on a terminal only."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._status: Any = None

    def __enter__(self) -> "Busy":
        if sys.stderr.isatty():
            from rich.console import Console

            self._status = Console(stderr=True).status(self._text)
            self._status.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None


def age(seconds: float) -> str:
    """Return a length of time as people read it: ``0.4 s``, ``12 s``, ``3 min``, ``2 h``, ``5 d``."""
    for limit, unit, size in ((1, "s", 1), (120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{max(0.0, seconds):.1f} s" if limit == 1 else f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"
