"""The ``tickrelay`` command line."""

from relay.cli.entry import main, run

__all__ = ["main", "run"]
