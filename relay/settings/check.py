"""What every check of the tables shares: where problems are gathered and secrets are read."""

from attrs import Factory, define

from relay.settings.secret import SecretError, SecretReader, SecretRef
from relay.settings.structure import Problem, Reading
from relay.settings.tables import Document

DEMO_APP_ID = "1"
DEMO_KEY = "demo-key"
DEMO_SECRET = "demo-secret"
DEMO_API_KEY = "demo-api-key"
DEMO_URL = "http://127.0.0.1:6001"

DEMO_VALUES = frozenset({DEMO_KEY, DEMO_SECRET, DEMO_API_KEY})
"""Known to everybody: refused outside the demo."""


@define
class Check:
    """One reading of a configuration while it is checked.

    Attributes:
        reading: the tables, and where something was cut out of them.
        secrets: reads secrets.
        demo: the values of the demo are allowed.
        problems: everything found wrong so far.
        notes: what is allowed but worth saying.
    """

    reading: Reading[Document]
    secrets: SecretReader
    demo: bool = False
    problems: list[Problem] = Factory(list)
    notes: list[str] = Factory(list)

    def wrong(self, message: str, *path: str | int) -> None:
        """Report a problem, unless it is only the consequence of one at that place."""
        if not self.reading.spoiled(*path):
            self.problems.append(Problem(path, message))

    def wrong_item(self, message: str, *path: str | int) -> None:
        """Report a problem of an item that was read, whatever was cut out of the list beside it."""
        self.problems.append(Problem(path, message))

    def secret(self, ref: SecretRef | None, *path: str) -> str | None:
        """Read a secret; None when it is absent or cannot be had, which is then reported."""
        if ref is None:
            return None
        try:
            value = self.secrets.read(ref)
        except SecretError as error:
            self.wrong(str(error), *path)
            return None
        return None if self.well_known(value, *path) else value

    def well_known(self, value: str, *path: str) -> bool:
        """Report a value of the demo outside the demo."""
        if self.demo or value not in DEMO_VALUES:
            return False
        self.wrong("this is the demo's value, known to everybody; choose your own", *path)
        return True
