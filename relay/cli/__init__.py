"""The ``tickrelay`` command line: the names of its commands, and the text of ``tickrelay --help``.

That text is written here. The libraries that read the arguments of commands and draw tables take several times as long to
import as all the rest.
"""

import importlib.metadata
import importlib.util
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relay.plugins.manager import Plugins

__all__ = ["main", "run"]

#: The entry-point group of plugins, see `relay.plugins.manager.GROUP`.
_GROUP = "tickrelay"

EXIT_CODES = {
    0: "done",
    1: "a problem, or a refusal, written to standard error; `symbols` and `quote`: nothing found",
    2: "wrong usage",
    3: "the outcome of a command is unknown: the order may be live",
    4: "the relay cannot be reached",
    5: "`status`, `cluster`: something is not usable",
    130: "interrupted",
}

#: Commands that live in modules of their own: name -> function or group, and the first line of its help.
ELSEWHERE = {
    "tail": ("relay.cli.running:tail", "Follow channels of a running relay: a live table, or JSON lines."),
    "status": ("relay.cli.running:status", "Show sessions, streams, budgets and audits of a running relay."),
    "cluster": ("relay.cli.running:cluster", "Show the relays that are one, who owns each provider, and lags."),
    "symbols": ("relay.cli.running:symbols", "Search the symbols that a running relay knows."),
    "quote": ("relay.cli.running:quote", "Show the present quotes of a symbol, of every provider that has it."),
    "accounts": ("relay.cli.running:accounts", "Show all accounts of a running relay: balances, orders, positions."),
    "order": ("relay.cli.order:order_app", "Trade through a running relay."),
    "play": ("relay.cli.recordings:play", "Serve a recorded provider session as the provider itself."),
    "try": ("relay.cli.recordings:try_adapter", "Try an adapter on a recording, without sockets."),
    "new-adapter": ("relay.cli.new_adapter:new_adapter", "Write a package for a new provider, which works as it is."),
    "record": ("relay_recorder.command:record", "Record what a provider sends and receives; nothing is ever ordered."),
    "probe": ("relay_recorder.command:probe", "Report on everything a provider offers; nothing is ever ordered."),
    "export": ("relay_recorder.command:export", "Export recorded events as JSON lines, CSV or Parquet."),
    "cut": ("relay_recorder.command:cut", "Cut a part out of a recording."),
}

#: The other commands, which `relay.cli.command_line` has: name -> the first line of its help.
OWN = {
    "init": "Write a first configuration which listens on this machine only: an app, an API key, providers with "
    "credentials.",
    "serve": "Run the relay until SIGINT or SIGTERM.",
    "check": "List all errors in a configuration, and warn of settings that may be mistakes.",
    "demo": "Run the relay with simulated providers and a page that shows them.",
    "key": "Make a random API key, and the lines of the configuration that admit it.",
    "config": "Print the reference of the configuration.",
    "plugins": "List the installed plugins, what each of them provides, and broken ones.",
    "completion": "Print the script that completes commands, options and values in a shell.",
}

ABOUT = "One relay between many brokers and many applications: every provider as one normalized Pusher feed."
EPILOGUE = (
    f"Exit codes: {'; '.join(f'{code} {meaning}' for code, meaning in EXIT_CODES.items())}.",
    "TICKRELAY_URL and TICKRELAY_API_KEY stand for --url and --api-key. Completion of the shell: "
    "tickrelay completion --help",
)


def main() -> None:
    """Run the console command and exit."""
    tokens = sys.argv[1:]
    if tokens not in ([], ["-h"], ["--help"]) or not _is_unicode() or plugins_with_commands():
        sys.exit(run(tokens))
    try:
        print(overview(shutil.get_terminal_size().columns), flush=True)
    except BrokenPipeError:  # `tickrelay | head`: the reader has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run(tokens: Sequence[str], plugins: "Plugins | None" = None) -> int:
    """Run one command and return its exit code, see `EXIT_CODES`."""
    from relay.cli.command_line import run

    return run(tokens, plugins)


def overview(width: int) -> str:
    """Return the text of ``tickrelay --help`` for so many columns: the same as the library's, without colours."""
    commands = {**OWN, **{name: about for name, (_, about) in ELSEWHERE.items()}}
    options = {"--help (-h)": "Display this message and exit.", "--version": "Display application version."}
    return "\n".join(
        [
            "Usage: tickrelay COMMAND",
            "",
            *textwrap.wrap(ABOUT, width),
            "",
            *_framed("Commands", dict(sorted(commands.items())) | options, width),
            *(line for paragraph in EPILOGUE for line in ("", *textwrap.wrap(paragraph, width))),
        ]
    )


def _framed(title: str, rows: Mapping[str, str], width: int) -> Iterator[str]:
    widest = max(map(len, rows))
    yield f"╭─ {title} ".ljust(width - 1, "─") + "╮"
    for name, about in rows.items():
        for number, line in enumerate(textwrap.wrap(about, width - widest - 6)):
            yield f"│ {'' if number else name:{widest}}  {line:{width - widest - 6}} │"
    yield f"╰{'─' * (width - 2)}╯"


def _is_unicode() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def plugins_with_commands() -> list[importlib.metadata.EntryPoint]:
    """Return the installed plugins that may add commands."""
    return [each for each in importlib.metadata.entry_points(group=_GROUP) if _may_have_commands(each)]


def _may_have_commands(entry_point: importlib.metadata.EntryPoint) -> bool:
    """Return False if no source of the plugin's package names the hook."""
    spec = importlib.util.find_spec(entry_point.module.partition(".")[0])
    if spec is None or spec.origin is None or Path(spec.origin).suffix != ".py":
        return True
    path = Path(spec.origin)
    sources = path.parent.rglob("*.py") if path.name == "__init__.py" else [path]
    return any(b"relay_commands" in each.read_bytes() for each in sources)
