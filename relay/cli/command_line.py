"""The ``tickrelay`` command line: its commands, and the way from ``sys.argv`` to an exit code.

Exit codes: 0: done. 1: a problem, written to standard error. 2: wrong usage. 3: the outcome of an order is unknown.
130: interrupted.
"""

import errno
import json
import os
import re
import secrets
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import cyclopts
import structlog
import trio
from attrs import frozen
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from relay import __version__
from relay.auth import hash_key
from relay.cli.logs import configure_logs, log_writer, say_error
from relay.cli.order import order_app
from relay.errors import OperatorError, leaves, path_text
from relay.plugins.manager import PluginError, Plugins, load_plugins
from relay.settings import LogTable, Settings, is_loopback, load, parse_listen, reference

_origin = re.compile(r"(?:https?://)?[A-Za-z0-9*._-]+(?::[0-9]{1,5})?", re.ASCII).fullmatch

#: The configuration that `tickrelay init` writes.
FIRST = """\
# `tickrelay config --reference` prints every setting, `tickrelay check` what is wrong here.

[server]
listen = "127.0.0.1:6001"
# public_url = "https://feed.example.com" # where a TLS proxy stands in front

[apps.main]
id = 1001
key = "{key}"
secret = {{ file = "{secret}" }}
# Sites whose pages may connect; programs that are no browsers always may.
allowed_origins = {origins}

# A provider, here one whose public feed needs no credentials. `tickrelay plugins` lists the adapters.
# [providers.binance]
# pinned = ["quote BTC/USDT"]
"""

_BIND_ERRORS = {errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}


def main() -> None:
    """Run the console command and exit."""
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
        say_error(f"tickrelay: {line}")


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
    commands = CommandLine(plugins)
    for command in (
        commands.init,
        commands.serve,
        commands.check,
        commands.demo,
        commands.play,
        commands.key,
        commands.config,
    ):
        app.command(command)
    app.command(commands.plugin_list, name="plugins")
    app.command(order_app())
    _add_plugin_commands(app, plugins)
    return app


def _add_plugin_commands(app: cyclopts.App, plugins: Plugins) -> None:
    """Add the commands of plugins. A plugin that fails here must not remove the other commands."""
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


@frozen
class CommandLine:
    """The commands, as methods, with the plugins that were found."""

    plugins: Plugins

    def init(
        self,
        config: Path = Path("tickrelay.toml"),
        /,
        *,
        origin: Annotated[list[str] | None, Parameter(name="--origin", negative=())] = None,
    ) -> None:
        """Write a first configuration: one app with a new key and secret, which listens on this machine only.

        Args:
            config: The file to write; it must not be there yet.
            origin: A site whose pages may connect, for example https://app.example.com; may be given several times. Asked
                for on a terminal when absent; without any, only programs connect.
        """
        if origin is None and sys.stdin.isatty():
            origin = input("Sites whose pages may connect, separated by spaces (none: only programs connect): ").split()
        for each in origin or ():
            if _origin(each) is None:
                raise OperatorError(
                    f"--origin {each!r:.200}: write it like https://app.example.com, *.example.com or *"
                )
        secret = config.with_name("app-secret")
        text = FIRST.format(key=secrets.token_hex(10), secret=secret.name, origins=json.dumps(origin or []))
        write_new(config, text, mode=0o644)
        write_new(secret, secrets.token_urlsafe(32) + "\n", mode=0o600)
        print(f"wrote {config} and the app's secret, {secret}")
        print(f"next: name a provider in it, then tickrelay check {config} and tickrelay serve -c {config}")

    async def serve(self, *, config: Annotated[Path, Parameter(alias="-c")] = Path("tickrelay.toml")) -> None:
        """Run the relay until SIGINT or SIGTERM.

        Args:
            config: The configuration, see `tickrelay config --reference`.
        """
        settings = read_settings(config, self.plugins)
        from relay import app

        with log_writer() as stream:
            configured = configure_logs(settings.log, settings.secret_values, stream)
            log = structlog.get_logger()
            for note in settings.notes:
                log.warning(note)
            for broken in self.plugins.broken:
                log.warning("plugin skipped", plugin=broken.name, reason=broken.reason)

            def reload() -> Settings:
                read = read_settings(config, self.plugins)
                configured.mask_also(read.secret_values)
                return read

            with listening_on(settings.server.host, settings.server.port):
                await app.serve(settings, self.plugins, reload=reload, log_counts=configured.counts)

    def check(self, config: Path = Path("tickrelay.toml"), /) -> None:
        """Say everything that is wrong with a configuration.

        Args:
            config: The configuration.
        """
        settings = read_settings(config, self.plugins)
        print(f"{config} is fine")
        for line in summary(settings):
            print(f"  {line}")
        for note in settings.notes:
            print(f"  note: {note}")

    async def demo(
        self, *, listen: str = "127.0.0.1:6001", seconds: Annotated[float | None, Parameter(name="--for")] = None
    ) -> None:
        """Run the relay with simulated providers and a page that shows them.

        Args:
            listen: HOST:PORT on this machine; port 0 lets the kernel choose.
            seconds: How long; until Ctrl-C when absent.
        """
        host, port = listen_argument(listen)
        if not is_loopback(host):
            raise OperatorError(
                f"--listen {listen}: the demo's keys are known to everybody, it listens on loopback only"
            )
        from relay.demo import demo

        with log_writer() as stream:
            configure_logs(LogTable(level="warning"), (), stream)
            with listening_on(host, port):
                await demo((host, port), seconds, self.plugins)

    async def play(
        self,
        file: Path,
        /,
        *,
        listen: str = "127.0.0.1:6010",
        speed: float = 1.0,
        start: Literal["connect", "subscribe"] = "subscribe",
    ) -> None:
        """Serve a recorded provider session as the provider itself.

        Args:
            file: The recording, JSON lines.
            listen: HOST:PORT; port 0 lets the kernel choose.
            speed: 1 as recorded, 10 ten times as fast, 0 as fast as the client reads.
            start: When the frames begin: at once, or after the client subscribed.
        """
        from relay.testing.player import Player
        from relay.testing.recording import RecordingError, read_recording

        host, port = listen_argument(listen)
        try:
            recording = read_recording(file)
            player = Player(recording, speed=speed, start=start, quiet=0.5, close=False, reply=None)
        except OSError as error:
            raise OperatorError(f"cannot read {file}: {error.strerror or error}") from error
        except (RecordingError, ValueError) as error:
            raise OperatorError(str(error)) from error
        with listening_on(host, port):
            async with trio.open_nursery() as nursery:
                await nursery.start(partial(player.serve, host=host, port=port))
                print(f"playing {file} at {player.ws_url} and {player.http_url}", flush=True)
                await _until_stopped()
                nursery.cancel_scope.cancel()

    def plugin_list(self) -> int:
        """List the plugins that were found, what they bring, and which of them are broken."""
        print_wide(plugin_table(self.plugins))
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
        key = secrets.token_urlsafe(32)
        print(f"# The key, shown only here: {key}")
        print(f"[{path_text(('api_keys', name))}]")
        print(f'sha256 = "{hash_key(key)}"')

    def config(self, *, reference: bool = False, plugins: bool = False) -> int:
        """Print what can be configured.

        Args:
            reference: Every setting with its type, default and meaning, as Markdown.
            plugins: Also the settings of the installed plugins.
        """
        if not reference:
            print("tickrelay: config --reference prints every setting", file=sys.stderr)
            return 2
        print(reference_text(self.plugins if plugins else None), end="")
        return 0


def write_new(path: Path, text: str, *, mode: int) -> None:
    """Write a file that does not exist yet. Raises OperatorError if it does or cannot be written."""
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise OperatorError(f"cannot write {path}: {error.strerror or error}") from error


def read_settings(config: Path, plugins: Plugins) -> Settings:
    """Read a configuration, with the adapters and tables of the plugins.

    Raises:
        OperatorError: with every problem of the configuration, or of the plugins.
    """
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


def reference_text(plugins: Plugins | None) -> str:
    return reference(plugins.tables() if plugins is not None else None)


def summary(settings: Settings) -> Iterator[str]:
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


def plugin_table(plugins: Plugins) -> Table:
    """Return the loaded plugins as a table."""
    table = Table("plugin", "distribution", "version", "adapters", "hooks", box=None, pad_edge=False)
    brought: dict[str, list[str]] = {}
    for item in plugins.collect("relay_adapters"):
        brought.setdefault(item.plugin, []).append(getattr(item.value, "name", repr(item.value)))
    for each in plugins.loaded:
        adapters = ", ".join(brought.get(each.name, []))
        table.add_row(each.name, each.distribution, each.version, adapters, ", ".join(each.hooks))
    return table


def print_wide(table: Table) -> None:
    """Print a table. Lines are not wrapped if standard output is a pipe."""
    Console(width=None if sys.stdout.isatty() else 250).print(table)


def listen_argument(text: str) -> tuple[str, int]:
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


async def _until_stopped() -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            return
