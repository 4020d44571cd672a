"""Secrets: written in the configuration as where they are, read from the environment or from a file."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import Factory, field, frozen

_HOW = 'write { env = "NAME" } or { file = "/path" }'


@frozen
class SecretRef:
    """Where a secret is: exactly one of an environment variable, a file, or (where allowed) the text itself."""

    env: str | None = None
    file: str | None = None
    inline: str | None = field(default=None, repr=False)

    @classmethod
    def structure(cls, value: Any) -> "SecretRef":
        """Read what stands in the configuration.

        Raises:
            ValueError: it is neither text nor a table of `env` or `file`; the value itself is not in the message.
        """
        match value:
            case str():
                return cls(inline=value)
            case {"env": str(name), **rest} if name and not rest:
                return cls(env=name)
            case {"file": str(path), **rest} if path and not rest:
                return cls(file=path)
        raise ValueError(f"not a secret; {_HOW}")


class SecretError(ValueError):
    """A secret that cannot be had; the message names the variable or the file, never the value."""


@frozen
class SecretReader:
    """Reads secrets and remembers what it read, so that logs can mask it.

    Attributes:
        environ: the environment.
        read_file: returns a file's text; raises OSError or UnicodeDecodeError.
        base: relative file names are relative to this directory.
        allow_inline: accept text in the configuration.
        values: every secret read so far.
    """

    environ: Mapping[str, str] = field(repr=False)
    read_file: Callable[[Path], str]
    base: Path
    allow_inline: bool = False
    values: set[str] = field(repr=False, default=Factory(set))

    def read(self, ref: SecretRef) -> str:
        """Return the secret.

        Raises:
            SecretError: it is not there, is empty, or stands in the configuration where it must not.
        """
        if ref.env is not None:
            value = self._from_environ(ref.env)
        elif ref.file is not None:
            value = self._from_file(ref.file)
        else:
            value = self._from_text(ref.inline or "")
        self.values.add(value)
        return value

    def _from_environ(self, name: str) -> str:
        value = self.environ.get(name)
        if value is None:
            raise SecretError(f"environment variable {name} is not set")
        if not value.strip():
            raise SecretError(f"environment variable {name} is empty")
        return value

    def _from_file(self, name: str) -> str:
        path = self.base / name
        try:
            value = self.read_file(path).strip()
        except OSError as error:
            raise SecretError(f"cannot read {path}: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise SecretError(f"cannot read {path}: it is not UTF-8 text") from error
        if not value:
            raise SecretError(f"file {path} is empty")
        return value

    def _from_text(self, value: str) -> str:
        if not self.allow_inline:
            raise SecretError(f"a secret must not stand in this file; {_HOW}, or set allow_inline_secrets = true")
        if not value.strip():
            raise SecretError("the secret is empty")
        return value
