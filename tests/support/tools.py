"""Tools a test needs beyond Python: skipped by name where they are missing, failed where they are required.

``TICKRELAY_REQUIRE_TOOLS=1`` (set by CI) turns every such skip into a failure, so that nothing goes untested unseen.
"""

import os
import shutil
from pathlib import Path

import pytest

NODE_DIR = Path(__file__).parents[1] / "node"


def missing(what: str, remedy: str = "") -> None:
    """Skip the running test because ``what`` is not there, and say what helps; fail it where tools are required."""
    message = f"{what} missing ({remedy})" if remedy else f"{what} missing"
    if os.environ.get("TICKRELAY_REQUIRE_TOOLS") == "1":
        pytest.fail(f"{message}, and TICKRELAY_REQUIRE_TOOLS is set")
    pytest.skip(message)


def node() -> str:
    """Return the path of Node.js with the client libraries beside the tests installed."""
    binary = shutil.which("node")
    if binary is None:
        missing("Node.js")
    elif not (NODE_DIR / "node_modules" / "pusher-js").is_dir():
        missing("npm packages of tests/node", "run `make node`")
    return binary or ""


def chromium() -> str:
    """Return the path of Debian's Chromium."""
    binary = shutil.which("chromium") or shutil.which("chromium-browser")
    if binary is None:
        missing("Chromium")
    return binary or ""


def redis_server() -> str:
    """Return the path of Redis' server."""
    binary = shutil.which("redis-server")
    if binary is None:
        missing("redis-server")
    return binary or ""
