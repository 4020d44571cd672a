"""``tickrelay new-adapter``: writes the package of an adapter that works, for its author to change."""

import importlib.util
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from relay.cli.output import say
from relay.errors import OperatorError, nearest
from relay.plugins.manager import load_plugins
from relay.testing import scaffold

#: The likeness of a name to that of an installed adapter that is worth a remark.
_ALIKE = 0.85


def new_adapter(
    name: str,
    /,
    *,
    broker: Annotated[bool, Parameter(negative=())] = False,
    into: Path | None = None,
) -> None:
    """Write a package for a new provider: adapter, simulator, fixture, tests, coverage table, entry point.

    It works as it is, with an invented provider: it installs, passes its tests and runs in `tickrelay demo`.

    Args:
        name: The adapter's name: lower-case letters and digits, in words joined by underscores.
        broker: With an account and orders; otherwise market data only.
        into: The folder, which must be new or empty; by default tickrelay-NAME in the current one.
    """
    if (why := scaffold.refusal(name)) is not None:
        raise OperatorError(why)
    installed = load_plugins().adapters()
    if name in installed:
        raise OperatorError(f"there is an adapter {name} already, in {installed[name].__module__}; take another name")
    if importlib.util.find_spec(f"relay_{name}") is not None:
        raise OperatorError(f"there is a package relay_{name} already; take another name")
    folder = Path(f"tickrelay-{name.replace('_', '-')}") if into is None else into
    files = scaffold.rendered(name, broker=broker)
    _write(folder, files)
    if (like := nearest(name, installed, cutoff=_ALIKE)) is not None:
        say(f"note: an adapter {like} is installed already")
    print(f"wrote {folder}: {', '.join(sorted(files))}")
    print(f"next: pip install -e '{folder}[test]', then pytest {folder}, tickrelay demo; docs: Add a provider")


def _write(folder: Path, files: dict[str, str]) -> None:
    """Write the files into a folder that has none.

    Raises:
        OperatorError: the folder has files, or cannot be written.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise OperatorError(f"{folder} is there already; remove it, or name another folder with --into")
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
    except OSError as error:
        raise OperatorError(f"cannot write {folder}: {error.strerror or error}") from error
