"""Errors as people read them: an operator's problems in one line each, without a traceback and without secrets."""

import difflib
import json
import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

import attrs

_userinfo = re.compile(r"(?<=://)[^/?#\s\"']*@")
_bare = re.compile(r"[A-Za-z0-9_-]+").fullmatch

#: A place in a configuration: table names, keys, and indexes of lists.
Path = tuple[str | int, ...]

#: The text that takes the place of a secret.
HIDDEN = "[redacted]"
#: Most characters of a name that are compared with known names: clients may send long ones.
_COMPARED = 128


class OperatorError(Exception):
    """Raised when the operator must change something first; ``lines`` names the problems, one a line."""

    def __init__(self, lines: str | Iterable[str]) -> None:
        self.lines: tuple[str, ...] = (lines,) if isinstance(lines, str) else tuple(lines)
        super().__init__("\n".join(self.lines))


def one_line(text: str) -> str:
    """Return ``text`` with every character that would break or blur a line written as its escape."""
    if text.isprintable():
        return text
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


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return the name of ``known`` most like ``name``, None when none reaches the likeness ``cutoff`` (0 to 1)."""
    by_lower = {other.lower(): other for other in known}
    found = difflib.get_close_matches(name[:_COMPARED].lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[found[0]] if found else None


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return the end of an error about an unknown ``name``: the nearest known one, or all of them."""
    names = sorted(known)
    near = nearest(name, names)
    if near is not None:
        return f"did you mean {near}?"
    return f"there are: {', '.join(names)}" if names else "there are none"


def reason_of(error: BaseException) -> str:
    """Return the message of an exception, without the additional arguments of attrs validators."""
    behind = error.args[1:2]
    return error.args[0] if behind and isinstance(behind[0], attrs.Attribute) else str(error)


def leaves(error: BaseException) -> list[BaseException]:
    """Return the exceptions of a group and its nested groups; for any other exception, that one."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for member in error.exceptions for leaf in leaves(member)]
    return [error]


def secrets_pattern(secrets: Iterable[str]) -> re.Pattern[str] | None:
    """Return a pattern that finds each of ``secrets`` as it is, in a URL, in JSON and in a ``repr``; None without any.

    A secret of digits only (the number of a login) is not found within a longer number.
    """
    spellings = {spelling for secret in secrets if secret for spelling in _spellings(secret)}
    # The longest first: if one secret is a prefix of another one, the longer one must be removed as a whole.
    ordered = sorted(spellings, key=len, reverse=True)
    return re.compile("|".join(map(_spelling_pattern, ordered))) if ordered else None


def _spelling_pattern(spelling: str) -> str:
    if spelling.isascii() and spelling.isdigit():
        return rf"(?<![0-9])(?<![0-9]\.){spelling}(?![0-9]|\.[0-9])"
    return re.escape(spelling)


def hide_userinfo(text: str) -> str:
    """Return ``text`` with the ``user:password@`` of every URL in it hidden."""
    return _userinfo.sub(f"{HIDDEN}@", text)


def _spellings(secret: str) -> set[str]:
    written = {secret, quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1]}
    return written | {json.dumps(secret, ensure_ascii=ascii)[1:-1] for ascii in (True, False)}
