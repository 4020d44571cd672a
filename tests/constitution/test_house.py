"""Rules about the tree itself."""

import re
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_the_top_level_is_what_it_is_said_to_be() -> None:
    expected = {"pyproject.toml", "uv.lock", "relay", "adapters", "plugins", "tests", "docs", "bench", "README.md", "SECURITY.md", "CHANGELOG.md", "LICENSE",
                "Makefile", ".ci", ".gitignore"}  # fmt: skip
    assert {path.relative_to(ROOT).parts[0] for path in tracked()} <= expected


def test_the_wheel_holds_every_package_of_the_tree_and_nothing_else() -> None:
    packages = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    in_tree = sorted(
        str(p.parent.relative_to(ROOT))
        for base in ("adapters", "plugins")
        for p in (ROOT / base).glob("relay_*/__init__.py")
    )
    assert sorted(packages) == [
        "adapters/" + p.removeprefix("adapters/") if p.startswith("adapters") else p for p in [*in_tree, "relay"]
    ]
    points = PYPROJECT["project"]["entry-points"]["tickrelay"]
    assert sorted(points.values()) == sorted(Path(p).name for p in in_tree)


def test_every_package_is_typed() -> None:
    for name in PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        assert (ROOT / name / "py.typed").exists(), name


def test_no_file_names_a_path_of_a_machine_or_a_todo() -> None:
    path_of_a_machine = re.compile(r"(?<![\w.$/-])/(?:work|home/\w+|root)/")
    for path in tracked():
        if path.suffix in {".py", ".md", ".toml", ".html", ".css"} and path != Path(__file__):
            text = path.read_text()
            assert not path_of_a_machine.search(text), path
            if path.suffix == ".py":
                assert not re.search(r"#\s*(TODO|FIXME|XXX)\b", text), path
