"""Packages of plugins that a test writes, as good as installed, and Python modules run with them."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

from support.deadlines import WITHIN


def installed_as_pip_does(package: Path) -> None:
    """Put the metadata beside the package by which its entry points are found; no network is asked for a build backend."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    metadata = package / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    about = {"Metadata-Version": "2.1", "Name": project["name"], "Version": project["version"]}
    (metadata / "METADATA").write_text("".join(f"{name}: {value}\n" for name, value in about.items()))
    points = "".join(f"{name} = {value}\n" for name, value in project["entry-points"]["tickrelay"].items())
    (metadata / "entry_points.txt").write_text(f"[tickrelay]\n{points}")


def environment(package: Path) -> dict[str, str]:
    """Return the environment of a process in which the package is installed."""
    return {**os.environ, "PYTHONPATH": str(package), "PYTHONWARNINGS": "ignore"}


def ran(package: Path, *command: str) -> tuple[bool, str]:
    """Run a Python module in the package's folder; return whether it failed, and what it said."""
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=package, env=environment(package), capture_output=True, text=True, check=False,
        timeout=WITHIN,
    )  # fmt: skip
    return done.returncode != 0, done.stdout + done.stderr
