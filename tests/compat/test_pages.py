"""Every program on the pages for app developers runs, as it stands there, against a relay, and prints what it is for."""

import os
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import tools
from support.deadlines import WITHIN
from support.matrix import ROOT
from support.shared_relay import KEYS, SharedRelay, shared_relay

PAGES = ("quick-start", "clients", "recipes", "javascript-client", "python-client")
BLOCK = re.compile(r"^```(js|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PROGRAMS = [
    pytest.param(language, text, id=f"{page}-{number}", marks=[pytest.mark.node] if language == "js" else [])
    for page in PAGES
    for number, (language, text) in enumerate(BLOCK.findall((ROOT / "docs" / f"{page}.md").read_text()))
]
#: Seconds until a program has printed something, on the slowest machine.


@pytest.fixture(scope="module")
def relay() -> Iterator[SharedRelay]:
    with shared_relay() as relay:
        yield relay


def first_line(process: "subprocess.Popen[bytes]") -> str:
    assert process.stdout is not None
    printed, ends = b"", time.monotonic() + WITHIN
    while b"\n" not in printed:
        ready, _, _ = select.select([process.stdout], [], [], max(0, ends - time.monotonic()))
        chunk = os.read(process.stdout.fileno(), 65536) if ready else b""
        if not chunk:
            break
        printed += chunk
    return printed.decode().strip()


@pytest.mark.parametrize(("language", "text"), PROGRAMS)
def test_a_program_of_the_pages_runs(language: str, text: str, relay: SharedRelay, tmp_path: Path) -> None:
    text = text.replace("6001", str(relay.port)).replace("demo-api-key", KEYS["main"]["key"])
    if language == "js":
        interpreter, program = tools.node(), tmp_path / "program.js"
        for name in ("tickrelay.js", "resume.js"):
            shutil.copy(ROOT / "relay" / "web" / name, tmp_path)
        (tmp_path / "node_modules").symlink_to(tools.NODE_DIR / "node_modules")
        (tmp_path / "package.json").write_text('{"type": "module"}')
    else:
        interpreter, program = sys.executable, tmp_path / "program.py"
    program.write_text(text)
    with (
        (tmp_path / "errors").open("w+b") as errors,
        subprocess.Popen([interpreter, program], cwd=tmp_path, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        printed = first_line(process)
        process.kill()
        errors.seek(0)
        assert (errors.read().decode(), bool(printed)) == ("", True)
