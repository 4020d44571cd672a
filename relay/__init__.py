"""tickrelay: every broker as one normalized feed over the Pusher protocol."""

__version__ = "0.1.0"
