"""From ``sys.argv`` to an exit code.

0: done. 1: a problem that was stated in a line on standard error. 2: the command was used wrongly. 3: the outcome of an
order is unknown. 130: interrupted.
"""

import sys
from collections.abc import Sequence

import cyclopts
from rich.console import Console

from relay import __version__
from relay.cli.commands import Commands
from relay.cli.orders import order_app
from relay.errors import OperatorError, leaves
from relay.plugins.manager import PluginError, Plugins, load_plugins


def main() -> None:
    """The console command."""
    sys.exit(run(sys.argv[1:]))


def run(tokens: Sequence[str], plugins: Plugins | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        app = build_app(load_plugins() if plugins is None else plugins)
        result = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except cyclopts.CycloptsError as error:
        say(f"{error}".strip())
        say("tickrelay --help says how commands are used")
        return 2
    except OperatorError as error:
        say(*error.lines)
        return 1
    except BaseExceptionGroup as group:
        lines = _stated(group)
        if lines is None:
            raise
        say(*lines)
        return 1
    except KeyboardInterrupt:
        return 130
    return result if isinstance(result, int) else 0


def say(*lines: str) -> None:
    """Write lines to standard error."""
    for line in lines:
        print(f"tickrelay: {line}", file=sys.stderr)


def _stated(group: BaseExceptionGroup[BaseException]) -> list[str] | None:
    """Return the lines of a group (a nursery's) that holds operator errors only, else None."""
    stated, others = group.split(OperatorError)
    if others is not None or stated is None:
        return None
    return [line for error in leaves(stated) if isinstance(error, OperatorError) for line in error.lines]


def build_app(plugins: Plugins) -> cyclopts.App:
    """Return the command line with the commands of plugins."""
    app = cyclopts.App(
        name="tickrelay",
        help="One relay between many brokers and many applications: every provider as one normalized Pusher feed.",
        version=f"tickrelay {__version__}",
        backend="trio",
        console=Console(soft_wrap=not sys.stdout.isatty()),
        suppress_keyboard_interrupt=False,
    )
    commands = Commands(plugins)
    for command in (commands.serve, commands.check, commands.demo, commands.play, commands.key, commands.config):
        app.command(command)
    app.command(commands.plugin_list, name="plugins")
    app.command(order_app())
    _add_plugin_commands(app, plugins)
    return app


def _add_plugin_commands(app: cyclopts.App, plugins: Plugins) -> None:
    """Add what plugins bring. A plugin that fails here must not take the other commands away."""
    try:
        found = plugins.collect("relay_commands")
    except PluginError as error:
        say(*error.lines)
        return
    for item in found:
        name = getattr(item.value, "__name__", "").replace("_", "-")
        if name in app:
            say(f"plugin {item.plugin}: the command {name} is already there")
        else:
            app.command(item.value)
