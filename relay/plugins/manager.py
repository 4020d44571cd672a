"""Load plugins from entry points and call their hooks.

Rules:

- the manager is built here and passed on; nothing is global;
- a plugin that cannot be imported or registered is skipped and reported by name, the others are used;
- a plugin that is loaded but has a mistake (a misspelt hook, an adapter whose name is in use) is an error: otherwise the
  relay would start without a function that its operator relies on;
- hooks are called in the order of the plugins' names (pluggy's ``tryfirst`` and ``trylast`` apply), and an exception of a
  hook is reported with the name of its plugin.
"""

import importlib.metadata
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cache, partial
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import attrs
import pluggy

from relay.adapter import Adapter
from relay.errors import OperatorError, one_line, reason_of, suggestion
from relay.plugins import hookspecs as hooks

T = TypeVar("T")

GROUP = hooks.PROJECT
"""The entry-point group."""


class PluginError(OperatorError):
    """Raised when plugins have mistakes; every line names the plugin."""


@attrs.frozen
class LoadedPlugin:
    """A registered plugin and the hooks it implements."""

    name: str
    distribution: str
    version: str
    hooks: tuple[str, ...]


@attrs.frozen
class SkippedPlugin:
    """A plugin that was skipped, with the reason."""

    name: str
    distribution: str
    version: str
    reason: str


@attrs.frozen
class FromPlugin(Generic[T]):
    """A value from a plugin, with the plugin's name for error reports."""

    plugin: str
    value: T


@attrs.frozen
class Plugins:
    """The registered plugins, and a report on all that were found."""

    manager: pluggy.PluginManager
    loaded: tuple[LoadedPlugin, ...] = ()
    broken: tuple[SkippedPlugin, ...] = ()

    def problems(self) -> list[str]:
        """Return the mistakes that must stop the relay: misspelt hooks, bad or colliding adapters, failing hooks."""
        known = [hook for hook in dir(hooks) if self.manager.parse_hookspec_opts(hooks, hook) is not None]
        named = self.manager.list_name_plugin()
        problems = [line for name, plugin in named for line in _misspelt(self.manager, known, name, plugin)]
        for find in (self.adapters, self.tables):
            try:
                find()
            except PluginError as error:
                problems += error.lines
        return problems

    def check(self) -> None:
        """Raise an error if there are `problems`.

        Raises:
            PluginError: with all of them.
        """
        if problems := self.problems():
            raise PluginError(problems)

    def calls(
        self, hook: str, *, relay: hooks.RelayApi | None = None, settings: Mapping[str, Any] | None = None
    ) -> list[FromPlugin[Callable[..., list[Any]]]]:
        """Return a function per plugin that calls its implementation of ``hook``, in the order of calling.

        The arguments ``relay`` and ``settings`` of the hook are bound, the settings to the plugin's own tables. A function
        returns a list of the result, which is empty for None.
        """
        tables: dict[str, dict[str, Any]] = {}
        if settings:
            for table, owner in self._table_owners().items():
                if table in settings:
                    tables.setdefault(owner.plugin, {})[table] = settings[table]
        caller = getattr(self.manager.hook, hook)
        takes = caller.spec.argnames
        implementations = [each for each in caller.get_hookimpls() if not (each.hookwrapper or each.wrapper)]
        everyone = {each.plugin for each in implementations}
        found: list[FromPlugin[Callable[..., list[Any]]]] = []
        for each in reversed(implementations):  # pluggy calls the last one first
            bound = {"relay": relay, "settings": tables.get(each.plugin_name, {})}
            only = self.manager.subset_hook_caller(hook, everyone - {each.plugin})
            arguments = {name: value for name, value in bound.items() if name in takes}
            found.append(FromPlugin(each.plugin_name, partial(_results, only, **arguments)))
        return found

    def collect(
        self,
        hook: str,
        *,
        relay: hooks.RelayApi | None = None,
        settings: Mapping[str, Any] | None = None,
        arguments: Mapping[str, Any] = MappingProxyType({}),
    ) -> list[FromPlugin[Any]]:
        """Call a hook that returns an iterable in every plugin; return the items with their plugins.

        Args:
            arguments: the arguments of the hook, except ``relay`` and ``settings``.

        Raises:
            PluginError: a hook raised an exception, or did not return an iterable.
        """
        found, problems = [], []
        for each in self.calls(hook, relay=relay, settings=settings):
            try:
                found += [FromPlugin(each.plugin, item) for result in each.value(**arguments) for item in result]
            except Exception as error:  # noqa: BLE001 - foreign code may raise anything; it is reported by name
                problems.append(f"plugin {each.plugin}: {hook} raised {_raised(error)}")
        if problems:
            raise PluginError(problems)
        return found

    def adapters(self) -> dict[str, type[Adapter]]:
        """Return the adapters by name.

        Raises:
            PluginError: a value is not an adapter, or two adapters have the same name.
        """
        found: dict[str, FromPlugin[type[Adapter]]] = {}
        problems = []
        for item in self.collect("relay_adapters"):
            adapter = item.value
            if not _is_adapter(adapter):
                problems.append(
                    f"plugin {item.plugin}: relay_adapters returned {adapter!r}, which is not a complete adapter"
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
        """Return the configuration tables that plugins read: name -> attrs class.

        Raises:
            PluginError: a hook raised an exception, a table is not an attrs class, or two tables have the same name.
        """
        return {table: owner.value for table, owner in self._table_owners().items()}

    def _table_owners(self) -> dict[str, FromPlugin[type]]:
        owners: dict[str, FromPlugin[type]] = {}
        problems = []
        for each in self.calls("relay_settings"):
            name = each.plugin
            try:
                tables = [(table, cls) for result in each.value() for table, cls in dict(result).items()]
            except Exception as error:  # noqa: BLE001 - foreign code may raise anything; it is reported by name
                problems.append(f"plugin {name}: relay_settings raised {_raised(error)}")
                continue
            for table, cls in tables:
                if not (inspect.isclass(cls) and attrs.has(cls)):
                    problems.append(f"plugin {name}: the class for the settings {table} is not an attrs class")
                elif table in owners:
                    problems.append(f"plugin {name}: the settings {table} are already those of {owners[table].plugin}")
                else:
                    owners[table] = FromPlugin(name, cls)
        if problems:
            raise PluginError(problems)
        return owners

    def check_settings(self, settings: Mapping[str, Any], apps: Collection[str]) -> None:
        """Let every plugin check its tables of ``settings``; ``apps`` are the ids of the apps.

        Raises:
            PluginError: a plugin refused them; the text names each such plugin.
        """
        problems = []
        for each in self.calls("relay_check_settings", settings=settings):
            try:
                each.value(apps=apps)
            except ValueError as error:
                problems.append(f"plugin {each.plugin}: {one_line(str(error)) or _raised(error)}")
            except Exception as error:  # noqa: BLE001 - foreign code may raise anything; it is reported by name
                problems.append(f"plugin {each.plugin}: relay_check_settings raised {_raised(error)}")
        if problems:
            raise PluginError(problems)

    def credential(self, settings: Mapping[str, Any], provider: str, name: str) -> str | None:
        """Return the credential from the first plugin that has it, else None.

        Raises:
            PluginError: the plugin that failed.
        """
        for each in self.calls("relay_credentials", settings=settings):
            try:
                results = each.value(provider=provider, name=name)
            except Exception as error:
                raise PluginError(f"plugin {each.plugin}: relay_credentials raised {_raised(error)}") from error
            if results:
                return str(results[0])
        return None


def _results(call: pluggy.HookCaller, **arguments: Any) -> list[Any]:
    result = call(**arguments)
    if isinstance(result, list):
        return result
    return [] if result is None else [result]  # a hook of which the first result wins


def _is_adapter(value: object) -> bool:
    if not inspect.isclass(value) or not issubclass(value, Adapter) or inspect.isabstract(value):
        return False
    return hasattr(value, "name") and hasattr(value, "session")


def _raised(error: Exception) -> str:
    text = " ".join(reason_of(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def load_plugins(entry_points: Iterable[importlib.metadata.EntryPoint] | None = None) -> Plugins:
    """Load the plugins of the installed distributions, or of these entry points. Never raises for a broken one."""
    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    if entry_points is None:
        entry_points = importlib.metadata.entry_points(group=GROUP)
    loaded, broken = [], []
    origin = cache(_origin)  # one distribution may have many plugins, and each name is parsed from its whole metadata
    # The last one registered is called first, so names in reverse are called in order.
    for entry_point in sorted(entry_points, key=lambda each: each.name, reverse=True):
        distribution, version = origin(entry_point.dist)
        try:
            plugin = entry_point.load()
            _register(manager, plugin, entry_point.name)
        except Exception as error:  # noqa: BLE001 - foreign code may raise anything; it is reported by name
            broken.append(SkippedPlugin(entry_point.name, distribution, version, _raised(error)))
        else:
            loaded.append(LoadedPlugin(entry_point.name, distribution, version, tuple(_hooks_of(manager, plugin))))
    return Plugins(manager, tuple(reversed(loaded)), tuple(reversed(broken)))


def _origin(distribution: importlib.metadata.Distribution | None) -> tuple[str, str]:
    return (distribution.name, distribution.version) if distribution is not None else ("", "")


def _register(manager: pluggy.PluginManager, plugin: object, name: str) -> None:
    """Register a plugin, undoing a registration that fails halfway."""
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


def _misspelt(manager: pluggy.PluginManager, known: list[str], name: str, plugin: object) -> Iterator[str]:
    for hook in _hooks_of(manager, plugin):
        if hook not in known:
            yield f"plugin {name}: no hook is named {hook}; {suggestion(hook, known)}"
    for hook in known:
        function = getattr(plugin, hook, None)
        if inspect.isroutine(function) and manager.parse_hookimpl_opts(plugin, hook) is None:
            yield f"plugin {name}: {hook} is not marked with @hookimpl, so it would never be called"
