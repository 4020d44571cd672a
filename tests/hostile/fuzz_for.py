"""Fuzz the running relay for a number of seconds: `make fuzz-relay SECONDS=3600`.

The tests of `test_fuzz` take turns at one relay with always new random examples. The first one that fails ends it, with
hypothesis' own report of the smallest example; write that one into its test. Each minute, and at the end, a line tells how
much was sent and how large the process is.
"""

import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import settings

settings.register_profile("for a time", deadline=None, max_examples=100, database=None, print_blob=True)
settings.load_profile("for a time")

from hostile import test_fuzz  # noqa: E402 - its tests have the settings that are loaded

TESTS = (
    test_fuzz.test_requests_of_every_route,
    test_fuzz.test_subscribers_with_strange_messages,
    test_fuzz.test_members_with_strange_messages,
    test_fuzz.test_mutated_bytes,
)


class CountedSocket(test_fuzz.socket.socket):
    """A socket whose connections and bytes are counted."""

    done: Counter[str] = Counter()

    def connect(self, address: Any) -> None:
        """Connect."""
        self.done["connections"] += 1
        super().connect(address)

    def sendall(self, data: bytes, flags: int = 0) -> None:  # type: ignore[override]
        """Send."""
        self.done["bytes"] += len(data)
        super().sendall(data, flags)


def main(seconds: float) -> None:
    """Fuzz, and print how much was done."""
    test_fuzz.connect = connect
    running = test_fuzz.Running()
    running.start()
    done, began = CountedSocket.done, time.monotonic()
    told = began
    try:
        while time.monotonic() - began < seconds:
            for test in TESTS:
                test(running)
                done[test.__name__] += settings().max_examples // 2
                if time.monotonic() - told > 60:
                    told = time.monotonic()
                    say(told - began, done)
    finally:
        say(time.monotonic() - began, done)
        running.honest.close()
        running.stop()


def connect(port: int) -> test_fuzz.socket.socket:
    """Return a connection that is counted."""
    sock = CountedSocket()
    sock.settimeout(test_fuzz.WITHIN)
    sock.connect(("127.0.0.1", port))
    return sock


def say(seconds: float, done: Counter[str]) -> None:
    """Print one line."""
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
    print(
        f"{seconds:.0f} s, {resident:.0f} MB resident:",
        ", ".join(f"{name} {n}" for name, n in done.items()),
        flush=True,
    )


if __name__ == "__main__":
    main(float(sys.argv[1]))
