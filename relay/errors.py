"""Problems that are the operator's to solve: said in one line each, without a traceback."""

import difflib
import re
from collections.abc import Iterable

_bare = re.compile(r"[A-Za-z0-9_-]+").fullmatch

#: Where something stands in a configuration: table names, keys, and indexes of lists.
Path = tuple[str | int, ...]


class OperatorError(Exception):
    """Something outside the program must be put right first. ``lines`` says what, one problem a line."""

    def __init__(self, lines: str | Iterable[str]) -> None:
        self.lines: tuple[str, ...] = (lines,) if isinstance(lines, str) else tuple(lines)
        super().__init__("\n".join(self.lines))


def one_line(text: str) -> str:
    """Return ``text`` with every character that would break or blur a line written as its escape."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def path_text(path: Path) -> str:
    """Return a path as TOML writes it: ``providers.acme.pinned[0]``, ``symbols."BTC/USD"``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if _bare(part) else one_line('"' + part.replace('"', '\\"') + '"'))
    return text


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the name of ``known`` that ``name`` most likely was meant to be, None when none is near."""
    by_lower = {other.lower(): other for other in known}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return the end of an error about an unknown ``name``: the nearest known one, or all of them."""
    names = sorted(known)
    near = nearest(name, names)
    if near is not None:
        return f"did you mean {near}?"
    return f"there are: {', '.join(names)}" if names else "there are none"
