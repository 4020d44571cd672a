"""The package that ``tickrelay new-adapter`` writes: an invented provider that works, to be changed into a real one.

The templates beside this file are whole packages for an adapter named ``acme``, a venue and a broker. Files
that a tool would take for modules of the relay, or for a project, end in ``.txt``. Rendering puts another name in the
place of ``acme``.
"""

import re
from pathlib import Path

#: The longest name; it is part of channel names.
LONGEST = 32
_is_name = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*").fullmatch
_placeholder = re.compile(r"tickrelay-acme|acme|ACME|Acme")
_TEMPLATES = Path(__file__).parent


def refusal(name: str) -> str | None:
    """Return why an adapter cannot have this name, with the nearest one that it can have; None where it can."""
    if _is_name(name) and len(name) <= LONGEST:
        return None
    nearest = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_").lstrip("0123456789_")[:LONGEST].rstrip("_")
    why = f"at most {LONGEST} lower-case letters and digits, in words joined by underscores, the first a letter"
    return f"{name!r:.64} is no name of an adapter, which is {why}" + (f"; did you mean {nearest}?" if nearest else "")


def class_name(name: str) -> str:
    """Return the name of the adapter's class: ``AcmeFutures`` of ``acme_futures``."""
    return "".join(word.capitalize() for word in name.split("_"))


def rendered(name: str, *, broker: bool = False) -> dict[str, str]:
    """Return the files of a package for the adapter ``name``, by their paths in it.

    Raises:
        ValueError: an adapter cannot have this name.
    """
    if (why := refusal(name)) is not None:
        raise ValueError(why)
    base = _TEMPLATES / ("broker" if broker else "venue")
    files = {}
    for path in sorted(base.rglob("*")):
        if path.is_file():
            where = path.relative_to(base).as_posix().removesuffix(".txt")
            files[_named(where, name)] = _named(path.read_text("utf-8"), name)
    return files


def _named(text: str, name: str) -> str:
    names = {
        "tickrelay-acme": f"tickrelay-{name.replace('_', '-')}",
        "acme": name,
        "ACME": name.upper(),
        "Acme": class_name(name),
    }
    return _placeholder.sub(lambda found: names[found[0]], text)
