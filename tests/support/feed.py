"""The relay as a service of a plugin sees it, with some apps, for tests of the service alone."""

from collections.abc import Mapping
from typing import Any

from relay.pusher.apps import App
from relay.pusher.signatures import webhook_headers


class Feed:
    """`relay.plugins.RelayApi` of a relay that keeps nothing and whose state is empty."""

    several = False

    def __init__(self, *apps: App) -> None:
        self.apps = {app.id: app for app in apps}

    def snapshot(self) -> Mapping[str, Any]:
        """Return no state."""
        return {}

    def kept_rows(self, table: str) -> list[tuple[str, bytes]]:
        """Return no rows."""
        return []

    def keep_row(self, table: str, key: str, value: bytes | None) -> None:
        """Keep nothing."""

    async def rows_kept(self) -> bool:
        """Return False: nothing outlives the process."""
        return False

    def webhook_headers(self, app_id: str, body: bytes) -> Mapping[str, str]:
        """Return the headers of a body that the app signs."""
        return webhook_headers(self.apps[app_id], body)
