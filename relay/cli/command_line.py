"""The commands of ``tickrelay``, and the way from their arguments to an exit code.

Modules that take time to import are imported by the commands that need them, and adapters only by those that read a
configuration.
"""

import errno
import os
import secrets
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import cyclopts
from cyclopts import Parameter

from relay import __version__
from relay.cli import ABOUT, ELSEWHERE, EPILOGUE, OWN, plugins_with_commands
from relay.cli.output import print_json, print_table, say
from relay.errors import OperatorError, leaves, path_text

if TYPE_CHECKING:
    from rich.table import Table

    from relay.plugins.manager import Plugins
    from relay.settings import Settings

_BIND_ERRORS = {errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}


def run(tokens: Sequence[str], plugins: "Plugins | None" = None) -> int:
    """Run one command and return its exit code, see `EXIT_CODES`."""
    try:
        app = build_app(tokens, plugins)
        result = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except cyclopts.CycloptsError as error:
        say(f"{error}".strip())
        say(f"{' '.join(('tickrelay', *_command_of(tokens)))} --help shows the usage")
        return 2
    except OperatorError as error:
        say(*error.lines)
        return getattr(error, "exit_code", 1)
    except BaseExceptionGroup as group:
        found = _stated(group)
        if not found:
            raise
        say(*(line for error in found for line in error.lines))
        return max(getattr(error, "exit_code", 1) for error in found)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `tickrelay tail | head`: the reader has finished
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return result if isinstance(result, int) else 0


def _command_of(tokens: Sequence[str]) -> Sequence[str]:
    """Return the first token if it is a command, for a hint."""
    return tokens[:1] if tokens and tokens[0] in {*ELSEWHERE, *OWN} else ()


def _stated(group: BaseExceptionGroup[BaseException]) -> list[OperatorError]:
    """Return the errors of an exception group if all of them are operator errors, otherwise an empty list."""
    stated, others = group.split(OperatorError)
    if others is not None or stated is None:
        return []
    return [error for error in leaves(stated) if isinstance(error, OperatorError)]


def build_app(tokens: Sequence[str] = (), plugins: "Plugins | None" = None) -> cyclopts.App:
    """Return the command line. Commands of plugins are in it unless ``tokens`` begin with one of ours."""
    app = cyclopts.App(
        name="tickrelay",
        help=ABOUT,
        version=f"tickrelay {__version__}",
        backend="trio",
        suppress_keyboard_interrupt=False,
        help_format="plaintext",
        help_epilogue="\n\n".join(EPILOGUE),
    )
    commands = CommandLine(cache(_all_plugins) if plugins is None else lambda: plugins)
    for name in OWN:
        app.command(getattr(commands, "plugin_list" if name == "plugins" else name), name=name)
    for name, (place, about) in ELSEWHERE.items():
        app.command(place, name=name, help=about)
    if not tokens or tokens[0] not in {*ELSEWHERE, *OWN}:
        _add_plugin_commands(app, _plugins_with_commands() if plugins is None else plugins)
    return app


def _all_plugins() -> "Plugins":
    from relay.plugins.manager import load_plugins

    return load_plugins()


def _plugins_with_commands() -> "Plugins | None":
    """Load the plugins that may add commands, None if there are none: to load all adapters takes most of a second."""
    found = plugins_with_commands()
    if not found:
        return None
    from relay.plugins.manager import load_plugins

    return load_plugins(found)


def _add_plugin_commands(app: cyclopts.App, plugins: "Plugins | None") -> None:
    """Add the commands of plugins. A plugin that fails here must not remove the other commands."""
    if plugins is None:
        return
    from relay.plugins.manager import PluginError

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


class CommandLine:
    """The commands, as methods. ``plugins`` loads the plugins once."""

    def __init__(self, plugins: "Callable[[], Plugins]") -> None:
        self._plugins = plugins

    @property
    def plugins(self) -> "Plugins":
        """The plugins that were found."""
        return self._plugins()

    def init(
        self,
        config: Path = Path("tickrelay.toml"),
        /,
        *,
        origin: Annotated[list[str] | None, Parameter(name="--origin", negative=())] = None,
        provider: Annotated[list[str] | None, Parameter(name="--provider", negative=())] = None,
    ) -> None:
        """Write a first configuration which listens on this machine only: an app, an API key, providers with credentials.

        On a terminal it asks for missing arguments. Credentials that are typed in are written into files next to the
        configuration; the others are read from environment variables.

        Args:
            config: The file to write; it must not exist.
            origin: A site whose pages may connect, for example https://app.example.com; may be given several times.
                Without any, browsers cannot connect.
            provider: NAME of a provider with the adapter of that name, or NAME=ADAPTER; may be given several times.
        """
        from relay.cli.init import init

        init(self.plugins, config, origin, provider)

    async def serve(self, *, config: Annotated[Path, Parameter(alias="-c")] = Path("tickrelay.toml")) -> None:
        """Run the relay until SIGINT or SIGTERM.

        Args:
            config: The configuration, see `tickrelay config --reference`.
        """
        settings = read_settings(config, self.plugins)
        import structlog

        from relay import app
        from relay.cli.logs import configure_logs, log_writer

        with log_writer() as stream:
            configured = configure_logs(settings.log, settings.secret_values, stream)
            log = structlog.get_logger()
            for note in settings.notes:
                log.warning(note)
            for broken in self.plugins.broken:
                log.warning("plugin skipped", plugin=broken.name, reason=broken.reason)

            def reload() -> "Settings":
                read = read_settings(config, self.plugins)
                configured.mask_also(read.secret_values)
                return read

            with listening_on(settings.server.host, settings.server.port):
                await app.serve(settings, self.plugins, reload=reload, log_counts=configured.counts)

    def check(
        self,
        config: Path = Path("tickrelay.toml"),
        /,
        *,
        as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
    ) -> int:
        """List all errors in a configuration, and warn of settings that may be mistakes.

        Args:
            config: The configuration.
            as_json: Print an object with `ok`, `problems`, `warnings` and `summary`.
        """
        try:
            settings = read_settings(config, self.plugins)
        except OperatorError as error:
            if not as_json:
                raise
            print_json({"ok": False, "problems": list(error.lines), "warnings": [], "summary": []})
            return 1
        lines = list(summary(settings))
        if as_json:
            print_json({"ok": True, "problems": [], "warnings": list(settings.notes), "summary": lines})
            return 0
        print(f"{config} is fine{', with warnings' if settings.notes else ''}")
        for line in lines:
            print(f"  {line}")
        if settings.notes:
            print("warnings:")
        for note in settings.notes:
            print(f"  {note}")
        return 0

    async def demo(
        self, *, listen: str = "127.0.0.1:6001", seconds: Annotated[float | None, Parameter(name="--for")] = None
    ) -> None:
        """Run the relay with simulated providers and a page that shows them.

        Args:
            listen: HOST:PORT on this machine; port 0 lets the kernel choose.
            seconds: Run for so many seconds; until Ctrl-C when absent.
        """
        from relay.settings import LogTable, is_loopback

        host, port = listen_argument(listen)
        if not is_loopback(host):
            raise OperatorError(f"--listen {listen}: the demo's keys are public, so that it listens on loopback only")
        from relay.cli.logs import configure_logs, log_writer
        from relay.demo import demo

        with log_writer() as stream:
            configure_logs(LogTable(level="warning"), (), stream)
            with listening_on(host, port):
                await demo((host, port), seconds, self.plugins)

    def plugin_list(self, *, as_json: Annotated[bool, Parameter(name="--json", negative=())] = False) -> int:
        """List the installed plugins, what each of them provides, and broken ones.

        Args:
            as_json: Print an object with `plugins`, `broken` and `problems`.
        """
        if as_json:
            described = plugins_json(self.plugins)
            print_json(described)
            return 1 if described["problems"] else 0
        print_table(plugin_table(self.plugins))
        for broken in self.plugins.broken:
            print(f"broken: {broken.name} ({broken.distribution or 'no distribution'}): {broken.reason}")
        problems = self.plugins.problems()
        for problem in problems:
            print(f"tickrelay: {problem}", file=sys.stderr)
        return 1 if problems else 0

    def key(self, name: str = "NAME", /) -> None:
        """Make a random API key, and the lines of the configuration that admit it.

        Args:
            name: The key's name in the configuration and in logs.
        """
        from relay.auth import hash_key

        key = secrets.token_urlsafe(32)
        print(f"# The key, shown only here: {key}")
        print(f"[{path_text(('api_keys', name))}]")
        print(f'sha256 = "{hash_key(key)}"')

    def config(self, *, reference: bool = False, plugins: bool = False) -> int:
        """Print the reference of the configuration.

        Args:
            reference: Every setting with its type, default and meaning, as Markdown.
            plugins: Also the settings of the installed plugins.
        """
        if not reference:
            print("tickrelay: config --reference prints every setting", file=sys.stderr)
            return 2
        print(reference_text(self.plugins if plugins else None), end="")
        return 0

    def completion(self, shell: Literal["bash", "zsh", "fish"] = "bash", /) -> None:
        """Print the script that completes commands, options and values in a shell.

        bash: `tickrelay completion bash > ~/.local/share/bash-completion/completions/tickrelay`;
        zsh: into a file `_tickrelay` of a directory of `fpath`; fish: `~/.config/fish/completions/tickrelay.fish`.

        Args:
            shell: The shell.
        """
        print(build_app().generate_completion(prog_name="tickrelay", shell=shell))


def read_settings(config: Path, plugins: "Plugins") -> "Settings":
    """Read a configuration, with the adapters and tables of the plugins.

    Raises:
        OperatorError: with every problem of the configuration, or of the plugins.
    """
    from relay.settings import load

    plugins.check()
    return load(
        config,
        os.environ,
        plugins.adapters(),
        lambda path: path.read_text("utf-8"),
        plugin_tables=plugins.tables(),
        check_plugins=plugins.check_settings,
        credential=plugins.credential,
    )


def reference_text(plugins: "Plugins | None") -> str:
    from relay.settings import reference

    return reference(plugins.tables() if plugins is not None else None)


def summary(settings: "Settings") -> Iterator[str]:
    """Yield a summary of a configuration, line by line."""
    server = settings.server
    yield f"listens on {server.host}:{server.port}{' with TLS' if server.tls else ''}"
    yield f"stores commands in {settings.store or 'memory, which a restart empties'}"
    for app in settings.apps:
        yield f"app {app.name}: id {app.id}, key {app.key}{'' if app.enabled else ', disabled'}"
    for key in settings.api_keys:
        yield f"API key {key.name}: {len(key.accounts)} account patterns, {'may' if key.trade else 'may not'} trade"
    for provider in settings.providers:
        accounts = [account.name for account in provider.accounts if account.name]
        of_accounts = f", accounts {', '.join(accounts)}" if accounts else ""
        yield f"provider {provider.name}: adapter {provider.adapter.name}{of_accounts}, {len(provider.pinned)} pinned"


def plugin_table(plugins: "Plugins") -> "Table":
    """Return the loaded plugins as a table."""
    from relay.cli.output import table_of

    rows = ((*each[:3], ", ".join(each[3]), ", ".join(each[4])) for each in _loaded(plugins))
    return table_of(("plugin", "distribution", "version", "adapters", "hooks"), rows)


def plugins_json(plugins: "Plugins") -> dict[str, Any]:
    """Return the plugins, the broken ones and their problems, for programs."""
    names = ("name", "distribution", "version", "adapters", "hooks")
    return {
        "plugins": [dict(zip(names, each, strict=True)) for each in _loaded(plugins)],
        "broken": [
            {"name": each.name, "distribution": each.distribution, "version": each.version, "reason": each.reason}
            for each in plugins.broken
        ],
        "problems": plugins.problems(),
    }


def _loaded(plugins: "Plugins") -> Iterable[tuple[str, str, str, list[str], list[str]]]:
    brought: dict[str, list[str]] = {}
    for item in plugins.collect("relay_adapters"):
        brought.setdefault(item.plugin, []).append(getattr(item.value, "name", repr(item.value)))
    for each in plugins.loaded:
        yield each.name, each.distribution, each.version, brought.get(each.name, []), list(each.hooks)


def listen_argument(text: str) -> tuple[str, int]:
    from relay.settings import parse_listen

    try:
        return parse_listen(text)
    except ValueError as error:
        raise OperatorError(f"--listen: {error}") from error


@contextmanager
def listening_on(host: str, port: int) -> Iterator[None]:
    """Report an address that cannot be listened on in one line."""
    try:
        yield
    except (OSError, BaseExceptionGroup) as error:
        reason = _bind_error(error)
        if reason is None:
            raise
        raise OperatorError(f"cannot listen on {host}:{port}: {reason}") from error


def _bind_error(error: BaseException) -> str | None:
    """Return the reason that an address could not be bound; None if the error has another cause."""
    error, *others = leaves(error)
    if others:
        return None
    if isinstance(error, socket.gaierror) or (isinstance(error, OSError) and error.errno in _BIND_ERRORS):
        return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror)
    return None


async def until_stopped() -> None:
    """Wait for SIGINT or SIGTERM."""
    import signal

    import trio

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            return
