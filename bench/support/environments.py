"""Environments of their own for what only a bench needs, from PyPI, kept under the temporary directory for the next run."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from support.processes import Unavailable


def python_with(*packages: str) -> Path:
    """The Python of an environment that has the packages; Unavailable where they cannot be installed."""
    home = Path(tempfile.gettempdir()) / f"tickrelay-bench-{os.getuid()}-{'-'.join(packages)}"
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
        try:
            subprocess.run([sys.executable, "-m", "venv", home], check=True, timeout=60)
            subprocess.run(install, check=True, timeout=240, stderr=subprocess.DEVNULL)
        except (subprocess.SubprocessError, OSError) as error:
            raise Unavailable(
                f"{', '.join(packages)} could not be installed from PyPI ({type(error).__name__})"
            ) from error
        (home / "ready").touch()
    return python
