"""The pages on errors and on HTTP have everything that the code has."""

import re
from pathlib import Path

import pytest

from relay.pusher.messages import PusherCloseCode
from relay.server.api import answers, commands, routes
from relay.server.api.pusher import _ROUTES

ROOT = Path(__file__).parents[2]
ERRORS, HTTP = (ROOT / "docs" / "errors.md").read_text(), (ROOT / "docs" / "http.md").read_text()
#: Codes of `error` events that the relay makes itself, as the code has them.
OWN = {
    code
    for path in (ROOT / "relay" / "provider").glob("*.py")
    for code in re.findall(r'(?:\.error\(|\bError\(code=)"([a-z_]+)"', path.read_text())
}


@pytest.mark.parametrize(("status", "code"), answers._CODES.items())
def test_a_status_is_documented_with_its_code(status: int, code: str) -> None:
    assert re.search(rf"^\| {status} \| `{code}`", ERRORS, re.MULTILINE)


@pytest.mark.parametrize("reason", commands.CODES)
def test_a_code_beside_the_statuss_own_is_documented(reason: str) -> None:
    assert re.search(rf"^\| {commands.REFUSED[reason]} \|.*`{commands.CODES[reason]}`", ERRORS, re.MULTILINE)


@pytest.mark.parametrize("code", PusherCloseCode)
def test_a_close_code_is_documented(code: PusherCloseCode) -> None:
    assert str(int(code)) in ERRORS


def test_the_relays_own_codes_of_error_events_are_documented() -> None:
    assert len(OWN) > 5
    assert not {code for code in OWN if f"`{code}`" not in ERRORS}


def test_every_path_is_documented() -> None:
    source = Path(str(routes.__file__)).read_text()
    paths = {f"/api{path}" if path.startswith("/v2") else path for path in re.findall(r'Route\("(/[^"{]*)"', source)}
    assert len(paths) > 8
    assert not {path for path in paths if f"{path}`" not in HTTP}
    pusher = {"/" + "/".join("<" if part == "*" else part for part in path) for path in _ROUTES}
    deprecated = {"/channels/</events"}
    assert not {path for path in pusher - deprecated if path not in re.sub(r"<\w+>", "<", HTTP)}
