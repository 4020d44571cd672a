"""The ``tickrelay`` command line."""

from relay.cli.command_line import main, run

__all__ = ["main", "run"]
