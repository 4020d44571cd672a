"""Plugins: found by entry points, loaded one by one, asked for what they bring.

Rules:

- the manager is built here and passed on; nothing is global;
- a plugin that cannot be imported or registered is skipped and named in the report, the others serve;
- a plugin that is loaded but would not do what its author meant (a misspelt hook, an adapter whose name is taken) is an
  error: silence would be worse than not starting;
- hooks are called in the order of the plugins' names (pluggy's ``tryfirst`` and ``trylast`` apply), and what a hook raises
  is reported with the name of its plugin.
"""

import importlib.metadata
import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import attrs
import pluggy

from relay.adapter import Adapter
from relay.errors import OperatorError, suggestion
from relay.plugins import hookspecs as hooks

T = TypeVar("T")

GROUP = hooks.PROJECT
"""The entry-point group."""


class PluginError(OperatorError):
    """Plugins that would not do what they were meant to do; every line names the plugin."""


@attrs.frozen
class Loaded:
    """A plugin that is registered, and the hooks it implements."""

    name: str
    distribution: str
    version: str
    hooks: tuple[str, ...]


@attrs.frozen
class Broken:
    """A plugin that was skipped, and why."""

    name: str
    distribution: str
    version: str
    reason: str


@attrs.frozen
class FromPlugin(Generic[T]):
    """Something a plugin brought, with the plugin's name for error reports."""

    plugin: str
    value: T


@attrs.frozen
class Plugins:
    """The registered plugins, and the report on all that were found."""

    manager: pluggy.PluginManager
    loaded: tuple[Loaded, ...] = ()
    broken: tuple[Broken, ...] = ()

    def problems(self) -> list[str]:
        """Return what must stop the relay: misspelt or unmarked hooks, bad or colliding adapters, failing hooks."""
        problems = [line for name, plugin in self.manager.list_name_plugin() for line in _misspelt(self, name, plugin)]
        for find in (self.adapters, self.tables):
            try:
                find()
            except PluginError as error:
                problems += error.lines
        return problems

    def check(self) -> None:
        """Demand that there are no `problems`.

        Raises:
            PluginError: with all of them.
        """
        if problems := self.problems():
            raise PluginError(problems)

    def collect(self, hook: str) -> list[FromPlugin[Any]]:
        """Call a hook that returns an iterable in every plugin; return the items with their plugins.

        Raises:
            PluginError: the hooks that raised, or returned no iterable.
        """
        found, problems = [], []
        for name, call in self._callers(hook):
            try:
                found += [FromPlugin(name, item) for result in call() for item in result]
            except Exception as error:  # noqa: BLE001 - a stranger's code: whatever it raises is reported as its own
                problems.append(f"plugin {name}: {hook} raised {_raised(error)}")
        if problems:
            raise PluginError(problems)
        return found

    def adapters(self) -> dict[str, type[Adapter]]:
        """Return the adapters by name.

        Raises:
            PluginError: something that is no adapter, or two adapters of one name.
        """
        found: dict[str, FromPlugin[type[Adapter]]] = {}
        problems = []
        for item in self.collect("relay_adapters"):
            adapter = item.value
            if not _is_adapter(adapter):
                problems.append(
                    f"plugin {item.plugin}: relay_adapters returned {adapter!r}, which is no complete adapter"
                )
            elif adapter.name in found:
                other = found[adapter.name].plugin
                problems.append(f"plugin {item.plugin}: adapter {adapter.name} is already brought by plugin {other}")
            else:
                found[adapter.name] = item
        if problems:
            raise PluginError(problems)
        return {name: item.value for name, item in found.items()}

    def tables(self) -> dict[str, type]:
        """Return the configuration tables plugins read: name -> attrs class.

        Raises:
            PluginError: a hook raised, a table that is no attrs class, or two tables of one name.
        """
        owners: dict[str, FromPlugin[type]] = {}
        problems = []
        for name, call in self._callers("relay_settings"):
            try:
                tables = [(table, cls) for result in call() for table, cls in dict(result).items()]
            except Exception as error:  # noqa: BLE001 - a stranger's code: whatever it raises is reported as its own
                problems.append(f"plugin {name}: relay_settings raised {_raised(error)}")
                continue
            for table, cls in tables:
                if not (inspect.isclass(cls) and attrs.has(cls)):
                    problems.append(f"plugin {name}: the settings {table} are no attrs class")
                elif table in owners:
                    problems.append(f"plugin {name}: the settings {table} are already those of {owners[table].plugin}")
                else:
                    owners[table] = FromPlugin(name, cls)
        if problems:
            raise PluginError(problems)
        return {table: owner.value for table, owner in owners.items()}

    def configure(self, settings: Mapping[str, Any]) -> None:
        """Hand the structured plugin tables to every plugin.

        Raises:
            PluginError: naming each plugin that does not accept them.
        """
        problems = []
        for name, call in self._callers("relay_configure"):
            try:
                call(settings=settings)
            except Exception as error:  # noqa: BLE001 - a stranger's code: whatever it raises is reported as its own
                problems.append(f"plugin {name}: relay_configure raised {_raised(error)}")
        if problems:
            raise PluginError(problems)

    def credential(self, provider: str, name: str) -> str | None:
        """Return a credential that a plugin knows, None when none does.

        Raises:
            PluginError: the plugin that failed.
        """
        for plugin, call in self._callers("relay_credentials"):
            try:
                value = call(provider=provider, name=name)
            except Exception as error:
                raise PluginError(f"plugin {plugin}: relay_credentials raised {_raised(error)}") from error
            if value is not None:
                return str(value)
        return None

    def _callers(self, hook: str) -> Iterator[tuple[str, pluggy.HookCaller]]:
        """Yield (plugin's name, the hook of this plugin only) in the order of calling."""
        implementations = [each for each in getattr(self.manager.hook, hook).get_hookimpls() if not _wraps(each)]
        everyone = {each.plugin for each in implementations}
        for each in reversed(implementations):
            yield each.plugin_name, self.manager.subset_hook_caller(hook, everyone - {each.plugin})


def _is_adapter(value: object) -> bool:
    if not inspect.isclass(value) or not issubclass(value, Adapter) or inspect.isabstract(value):
        return False
    return hasattr(value, "name") and hasattr(value, "session")


def _wraps(implementation: pluggy.HookImpl) -> bool:
    return implementation.hookwrapper or implementation.wrapper


def _raised(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def load_plugins(entry_points: Iterable[importlib.metadata.EntryPoint] | None = None) -> Plugins:
    """Load the plugins of the installed distributions, or of these entry points. Never raises for a broken one."""
    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    if entry_points is None:
        entry_points = importlib.metadata.entry_points(group=GROUP)
    loaded, broken = [], []
    # The last one registered is called first, so names in reverse are called in order.
    for entry_point in sorted(entry_points, key=lambda each: each.name, reverse=True):
        distribution, version = _origin(entry_point)
        try:
            plugin = entry_point.load()
            _register(manager, plugin, entry_point.name)
        except Exception as error:  # noqa: BLE001 - importing a stranger's code: whatever it raises is its own failure
            broken.append(Broken(entry_point.name, distribution, version, _raised(error)))
        else:
            loaded.append(Loaded(entry_point.name, distribution, version, tuple(_hooks_of(manager, plugin))))
    return Plugins(manager, tuple(reversed(loaded)), tuple(reversed(broken)))


def _origin(entry_point: importlib.metadata.EntryPoint) -> tuple[str, str]:
    distribution = entry_point.dist
    return (distribution.name, distribution.version) if distribution is not None else ("", "")


def _register(manager: pluggy.PluginManager, plugin: object, name: str) -> None:
    """Register all of a plugin or nothing of it."""
    if manager.has_plugin(name):
        raise ValueError("another plugin has this name")
    try:
        manager.register(plugin, name)
    except Exception:
        if manager.is_registered(plugin):
            manager.unregister(plugin)
        raise


def _hooks_of(manager: pluggy.PluginManager, plugin: object) -> Iterator[str]:
    """Yield the names of the hooks a plugin implements, known ones and others."""
    for attribute in dir(plugin):
        options = manager.parse_hookimpl_opts(plugin, attribute)
        if options is not None:
            yield options.get("specname") or attribute


def _misspelt(plugins: Plugins, name: str, plugin: object) -> Iterator[str]:
    known = [hook for hook in dir(hooks) if plugins.manager.parse_hookspec_opts(hooks, hook) is not None]
    for hook in _hooks_of(plugins.manager, plugin):
        if hook not in known:
            yield f"plugin {name}: no hook is named {hook}; {suggestion(hook, known)}"
    for hook in known:
        function = getattr(plugin, hook, None)
        if inspect.isroutine(function) and plugins.manager.parse_hookimpl_opts(plugin, hook) is None:
            yield f"plugin {name}: {hook} is not marked with @hookimpl, so it would never be called"
