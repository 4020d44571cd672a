"""The log: both formats, and no secret in any of them."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from relay.cli.logs import Redaction, configure_logs
from relay.settings import LogTable

SECRET = 's3cr"t/+ value\\'


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before
    structlog.reset_defaults()


def written(format: Any, level: Any = "info") -> io.StringIO:
    stream = io.StringIO()
    configure_logs(LogTable(format=format, level=level), [SECRET], stream)
    return stream


def test_json() -> None:
    stream = written("json")
    structlog.get_logger().info("session ready", provider="acme", took=0.5)
    line = json.loads(stream.getvalue())
    assert (line["event"], line["provider"], line["took"], line["level"]) == ("session ready", "acme", 0.5, "info")
    assert line["timestamp"].endswith("Z")


def test_console() -> None:
    stream = written("console")
    structlog.get_logger().info("session ready", provider="acme")
    assert "session ready" in stream.getvalue()
    assert "provider=acme" in stream.getvalue()


def test_level() -> None:
    stream = written("json", "warning")
    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud")
    assert "quiet" not in stream.getvalue()
    assert "loud" in stream.getvalue()


def fail() -> None:
    raise ValueError(f"refused {SECRET}")


@pytest.mark.parametrize("format", ["json", "console"])
def test_a_secret_never_appears(format: str) -> None:
    stream = written(format)
    log = structlog.get_logger()
    log.info(f"dial {SECRET}", url="wss://x/?k=s3cr%22t%2F%2B%20value%5C", nested={"a": [SECRET]}, raw=SECRET.encode())
    try:
        fail()
    except ValueError:
        log.exception("failed")
    text = stream.getvalue()
    assert "s3cr" not in text
    assert text.count("[redacted]") >= 5
    if format == "json":
        assert [json.loads(line)["event"] for line in text.splitlines()] == ["dial [redacted]", "failed"]


def test_values_under_telling_names_are_masked() -> None:
    stream = written("json")
    structlog.get_logger().info("x", token="abc", headers={"Authorization": "Bearer abcdef", "host": "h"}, api_key="k")
    line = json.loads(stream.getvalue())
    assert line["token"] == line["api_key"] == line["headers"]["Authorization"] == "[redacted]"
    assert line["headers"]["host"] == "h"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("GET /a?token=abc&x=1", "GET /a?token=[redacted]&x=1"),
        ("auth_signature=00ff auth_key=web", "auth_signature=[redacted] auth_key=web"),
        ("Authorization: Bearer abc.def", "Authorization: [redacted]"),
        ("{'authorization': 'Basic YTpi'}", "{'authorization': '[redacted]'}"),
        ('"{\\"Authorization\\": \\"abc\\"}"', '"{\\"Authorization\\": \\"[redacted]\\"}"'),
        ("(b'authorization', b'Bearer abcdefgh')", "(b'authorization', b'Bearer [redacted]')"),
        ("a bearer of news", "a bearer of news"),
        ("the password policy", "the password policy"),
    ],
)
def test_text(text: str, masked: str) -> None:
    assert Redaction().mask(text) == masked


def test_short_secrets_do_not_eat_the_log() -> None:
    assert Redaction(["a", "", "long"]).mask("a long answer") == "a [redacted] answer"


def test_the_longer_of_two_secrets_wins() -> None:
    assert Redaction(["abcd", "abcdefgh"]).mask("abcdefgh") == "[redacted]"


def test_what_libraries_log_goes_the_same_way() -> None:
    stream = written("json")
    logging.getLogger("httpx").info("HTTP Request: GET https://x/?token=abc")
    logging.getLogger("trio-websocket").warning("lost %s", SECRET)
    line = json.loads(stream.getvalue())
    assert (line["event"], line["logger"], line["level"]) == ("lost [redacted]", "trio-websocket", "warning")
