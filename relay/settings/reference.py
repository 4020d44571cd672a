"""Describe every key of the configuration, with type, default and documentation, from the classes of the tables."""

import ast
import inspect
import textwrap
import typing
from collections.abc import Iterator, Mapping
from types import NoneType
from typing import Any, Literal

import attrs

from relay.settings.tables import Document, SecretRef, is_needed

_TYPES = {str: "text", bool: "true or false", int: "integer", float: "number", SecretRef: "secret", Any: "anything"}

_INTRO = """\
# Configuration

Printed by `tickrelay config --reference`. `tickrelay check CONFIG` lists all errors in a configuration.

The configuration is one TOML file. Unknown keys are errors. NAME in a table's title is a name of your choice. Durations are
seconds. Secrets are not written into the file: write `{ env = "VARIABLE" }` or `{ file = "/path" }`, a relative path being
relative to the configuration. A plugin's own table is `[plugins.NAME]`; `tickrelay config --reference --plugins` prints
those of the installed plugins too.
"""


@attrs.frozen
class Setting:
    """One key. ``path`` has NAME for every name that is the operator's choice; ``default`` is as TOML writes it."""

    path: str
    type: str
    default: str
    doc: str


@attrs.frozen
class Section:
    """One table of keys."""

    path: str
    doc: str
    settings: tuple[Setting, ...]


def describe_settings(plugin_tables: Mapping[str, type] | None = None) -> Iterator[Setting]:
    """Yield every setting, those of plugins last."""
    for section in _sections(plugin_tables or {}):
        yield from section.settings


def reference(plugin_tables: Mapping[str, type] | None = None) -> str:
    """Return the whole reference as Markdown."""
    return "\n".join([_INTRO, *map(_markdown, _sections(plugin_tables or {}))])


def _sections(plugin_tables: Mapping[str, type]) -> Iterator[Section]:
    yield from _of_class("", Document)
    for name, cls in plugin_tables.items():
        yield from _of_class(f"plugins.{name}", cls)


def _of_class(path: str, cls: type, doc: str = "") -> Iterator[Section]:
    """Yield the table of ``cls`` and those below it."""
    attrs.resolve_types(cls)
    docs, below, settings = attribute_docs(cls), [], []
    for attribute in (a for a in attrs.fields(cls) if a.init):
        name = f"{path}.{attribute.name}" if path else attribute.name
        table, repeated = _table_of(attribute.type)
        if table is not None:
            below.append((f"{name}.NAME" if repeated else name, table, docs.get(attribute.name, "")))
        elif attribute.name != "plugins":
            settings.append(Setting(name, _type(attribute.type), _default(attribute), docs.get(attribute.name, "")))
    yield Section(path, doc or inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0], tuple(settings))
    for name, table, text in below:
        yield from _of_class(name, table, text)


def _table_of(kind: Any) -> tuple[Any, bool]:
    """Return (class, True if there are several by name) if ``kind`` is a table of its own, else (None, False)."""
    if attrs.has(kind) and kind is not SecretRef:
        return kind, False
    if _is_mapping(kind) and attrs.has(inner := typing.get_args(kind)[1]) and inner is not SecretRef:
        return inner, True
    return None, False


def _is_mapping(kind: Any) -> bool:
    return isinstance(origin := typing.get_origin(kind), type) and issubclass(origin, Mapping)


def _type(kind: Any) -> str:
    arguments = [argument for argument in typing.get_args(kind) if argument is not NoneType]
    if typing.get_origin(kind) is Literal:
        return " or ".join(f'`"{value}"`' for value in arguments)
    if typing.get_origin(kind) in (tuple, list):
        return f"list of {_type(arguments[0])}"
    if _is_mapping(kind):
        return f"table of {_type(arguments[1])}"
    if arguments:
        return " or ".join(map(_type, arguments))
    return _TYPES.get(kind, getattr(kind, "__name__", str(kind)))


def _default(attribute: "attrs.Attribute[Any]") -> str:
    default = attribute.default
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        default = default.factory()  # type: ignore[union-attr]
    if default is attrs.NOTHING or is_needed(attribute):
        return "needed"
    return _toml(default)


def _toml(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case list() | tuple():
            return f"[{', '.join(map(_toml, value))}]"
        case dict():
            return "{}"
        case float() if value.is_integer():
            return str(int(value))
    return str(value)


def attribute_docs(cls: type) -> dict[str, str]:
    """Return the text that stands under each attribute in the source of ``cls``."""
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):
        return {}
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    docs = {}
    for attribute, text in zip(definition.body, definition.body[1:], strict=False):
        match attribute, text:
            case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str() as doc)):
                docs[name] = " ".join(doc.split())
    return docs


def _markdown(section: Section) -> str:
    title = f"## `[{section.path}]`" if section.path else "## Top level"
    rows = "".join(_row(setting) for setting in section.settings)
    head = "| key | type | default | meaning |\n|---|---|---|---|\n" if rows else ""
    return f"{title}\n\n{section.doc}\n\n{head}{rows}" if section.doc else f"{title}\n\n{head}{rows}"


def _row(setting: Setting) -> str:
    key = setting.path.rpartition(".")[2]
    default = setting.default if setting.default in ("", "needed") else f"`{setting.default}`"
    return f"| `{key}` | {setting.type} | {default} | {setting.doc} |\n"
