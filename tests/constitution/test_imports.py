"""The floors of the house: imports run one way, and the pure rooms stay pure."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: Rooms from the ground up; a room imports only the rooms named here (and itself).
GROUND = {
    "relay.errors",
    "relay.histogram",
    "relay.limits",
    "relay.model",
    "relay.adapter",
    "relay.websocket",
    "relay.pusher",
    "relay.plugins",
    "relay.auth",
}
FLOORS = {
    "relay.errors": set(),
    "relay.histogram": set(),
    "relay.limits": set(),
    "relay.model": {"relay.errors"},
    "relay.websocket": set(),
    "relay.adapter": {"relay.errors", "relay.model"},
    "relay.pusher": {"relay.limits", "relay.model", "relay.websocket"},
    "relay.plugins": {"relay.errors", "relay.model", "relay.adapter"},
    "relay.auth": {"relay.model"},
    "relay.store": {"relay.histogram"},
    "relay.cluster": GROUND | {"relay.store", "relay.trading", "relay.hub"},
    "relay.trading": GROUND | {"relay.store"},
    "relay.hub": {"relay.limits", "relay.model", "relay.plugins", "relay.pusher", "relay.store", "relay.trading", "relay.websocket"},
    "relay.provider": GROUND | {"relay.trading", "relay.hub"},
    "relay.settings": GROUND | {"relay.trading", "relay.hub", "relay.provider", "relay.server"},
    "relay.server": GROUND | {"relay.trading", "relay.hub", "relay.provider"},
    "relay.replay": GROUND | {"relay.provider", "relay.settings", "relay.testing"},
    "relay.providers": GROUND | {"relay.replay", "relay.store", "relay.trading", "relay.hub", "relay.provider", "relay.settings"},
    "relay.clustered": GROUND | {"relay.store", "relay.trading", "relay.hub", "relay.provider", "relay.settings", "relay.providers", "relay.cluster"},
    "relay.app": GROUND | {"relay.cluster", "relay.clustered", "relay.store", "relay.trading", "relay.hub", "relay.provider", "relay.settings", "relay.server", "relay.providers"},
    "relay.testing": GROUND | {"relay.provider", "relay.trading"},
    "relay.demo": GROUND | {"relay.settings", "relay.provider", "relay.app", "relay.providers"},
    "relay.client": {"relay.errors", "relay.model", "relay.pusher"},
    "relay.cli": GROUND | {"relay.client", "relay.trading", "relay.settings", "relay.provider", "relay.server", "relay.app", "relay.demo", "relay.testing"},
    "relay.__main__": {"relay.cli"},
}  # fmt: skip
#: What adapters may import of the relay.
FOR_ADAPTERS = {"relay.limits", "relay.model", "relay.adapter", "relay.plugins", "relay.pusher", "relay.testing"}
#: Rooms without IO, clock, random source or log, and the modules of them that are shells all the same.
PURE = (
    "relay.errors",
    "relay.histogram",
    "relay.limits",
    "relay.model",
    "relay.adapter",
    "relay.auth",
    "relay.plugins",
    "relay.settings",
    "relay.websocket",
    "relay.pusher",
    "relay.hub",
    "relay.provider",
    "relay.store",
    "relay.cluster",
    "relay.trading",
    "relay.server.admission",
)
SHELLS = {
    "relay.cluster.app_node",
    "relay.cluster.app_store",
    "relay.cluster.node",
    "relay.cluster.redis",
    "relay.cluster.store",
    "relay.store.memory",
    "relay.store.sqlite",
    "relay.store.sqlite_file",
    "relay.provider.driver",
    "relay.provider.connection",
    "relay.provider.http",
    "relay.trading.service",
}
IMPURE_MODULES = {
    "trio", "trio_websocket", "httpx", "socket", "ssl", "time", "random", "secrets", "logging", "structlog", "asyncio", "threading",
    "select", "subprocess", "os", "tempfile", "urllib.request", "http", "uuid", "sqlite3", "queue", "multiprocessing", "concurrent",
    "shutil", "signal", "redis", "coredis",
}  # fmt: skip
#: Clocks and IO that need no import of their own.
IMPURE_CALLS = {"open", "print", "input"}
IMPURE_METHODS = (
    "datetime.now",
    "datetime.utcnow",
    "date.today",
    "datetime.today",
    ".read_text",
    ".read_bytes",
    ".write_text",
    ".write_bytes",
)
#: Who may import the network libraries.
NETWORK_ROOMS = (
    "relay.server",
    "relay.app",
    "relay.clustered",
    "relay.demo",
    "relay.cli",
    "relay.client.api",
    "relay.testing",
    "relay.replay",
    *sorted(SHELLS),
)


def modules() -> dict[str, Path]:
    found = {}
    for base in (ROOT, ROOT / "adapters", ROOT / "plugins"):
        for path in sorted(base.glob("relay*/**/*.py")):
            parts = path.relative_to(base).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(module: str) -> Iterator[str]:
    """Full names of the modules ``module`` imports; names imported from a package count as its modules where they are."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = (
                module.split(".")[: -(node.level - (MODULES[module].name == "__init__.py")) or None]
                if node.level
                else []
            )
            base = ".".join([*package, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in MODULES else base


def within(module: str, room: str) -> bool:
    return module == room or module.startswith(room + ".")


def room_of(module: str) -> str | None:
    return next((room for room in FLOORS if within(module, room)), None)


def test_every_module_of_the_relay_is_in_a_room_and_every_room_exists() -> None:
    rooms = {module: room_of(module) for module in MODULES if within(module, "relay") and module != "relay"}
    assert not [module for module, room in rooms.items() if room is None], "these modules may import anything"
    assert set(rooms.values()) == set(FLOORS)


@pytest.mark.parametrize("module", [m for m in MODULES if room_of(m)])
def test_imports_run_one_way(module: str) -> None:
    room = room_of(module)
    assert room is not None
    allowed = FLOORS[room] | {room}
    stray = [
        name
        for name in imports(module)
        if name.startswith("relay") and name != "relay" and not any(within(name, r) for r in allowed)
    ]
    assert not stray, f"{module} may import {sorted(allowed)}, not {stray}"


@pytest.mark.parametrize("module", [m for m in MODULES if any(within(m, room) for room in PURE) and m not in SHELLS])
def test_pure_rooms_touch_no_io_clock_random_or_log(module: str) -> None:
    stray = [name for name in imports(module) if name in IMPURE_MODULES or name.split(".")[0] in IMPURE_MODULES]
    assert not stray, f"{module} is pure and imports {stray}"
    calls = [
        ast.unparse(node.func)
        for node in ast.walk(ast.parse(MODULES[module].read_text()))
        if isinstance(node, ast.Call)
    ]
    stray = [call for call in calls if call in IMPURE_CALLS or call.endswith(IMPURE_METHODS)]
    assert not stray, f"{module} is pure and calls {stray}"


def test_every_room_that_a_rule_names_exists() -> None:
    """A rule about a module that was renamed would hold for nothing."""
    named = {
        *FLOORS,
        *(room for rooms in FLOORS.values() for room in rooms),
        *PURE,
        *SHELLS,
        *NETWORK_ROOMS,
        *FOR_ADAPTERS,
    }
    assert not [room for room in sorted(named) if not any(within(module, room) for module in MODULES)]


@pytest.mark.parametrize("module", [m for m in MODULES if within(m, "relay")])
def test_the_relay_knows_no_provider_and_keeps_the_network_in_its_rooms(module: str) -> None:
    names = list(imports(module))
    assert not [name for name in names if name.startswith("relay_")], f"{module} names a provider or plugin"
    if not any(within(module, room) for room in NETWORK_ROOMS):
        assert not {"trio", "trio_websocket", "httpx"} & {name.split(".")[0] for name in names}, (
            f"{module} is no room of the network"
        )


@pytest.mark.parametrize("module", [m for m in MODULES if "adapters" in MODULES[m].parts])
def test_adapters_stand_on_the_public_rooms_only(module: str) -> None:
    own = module.split(".")[0]
    stray = [
        name
        for name in imports(module)
        if name.startswith("relay") and not within(name, own) and not any(within(name, room) for room in FOR_ADAPTERS)
    ]
    assert not stray, f"{module} imports {stray}"
    if module.endswith(".adapter"):
        impure = [name for name in imports(module) if name.split(".")[0] in IMPURE_MODULES]
        assert not impure, f"{module} is pure and imports {impure}"


def test_httpx_is_imported_in_one_module_of_the_relay_and_one_of_its_client() -> None:
    """The client runs on asyncio too, so it cannot share the relay's."""
    importers = [m for m in MODULES if within(m, "relay") and "httpx" in {name.split(".")[0] for name in imports(m)}]
    assert importers == ["relay.client.api", "relay.provider.http"]


@pytest.mark.parametrize("module", [m for m in MODULES if within(m, "relay.client")])
def test_the_client_runs_on_trio_and_asyncio(module: str) -> None:
    assert not {"trio", "trio_websocket", "asyncio"} & {name.split(".")[0] for name in imports(module)}


def test_reading_settings_loads_no_network_code() -> None:
    """Checked in a process of its own: an import of an import counts too."""
    program = (
        "import sys, relay.settings; print(*{'trio', 'trio_websocket', 'httpx', 'h11', 'starlette'} & set(sys.modules))"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert not loaded.split()


def test_no_import_circle() -> None:
    graph = {module: {name for name in imports(module) if name in MODULES and name != module} for module in MODULES}
    for package in [m for m in MODULES if MODULES[m].name == "__init__.py"]:
        for module in MODULES:
            if within(module, package) and module != package:
                graph[module].discard(package)
    TopologicalSorter(graph).prepare()
