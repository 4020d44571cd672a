"""Static files: the dashboard at ``/``."""

from pathlib import Path

from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

WEB = Path(__file__).parents[2] / "web"


class Pages(StaticFiles):
    """The files below one directory and nothing else (a path that leaves it is 404), with an ETag each.

    ``no-cache`` lets browsers keep them but ask every time, so that an upgraded relay never meets yesterday's script.
    """

    def __init__(self, directory: Path = WEB) -> None:
        super().__init__(directory=directory, html=True, check_dir=False)

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Content-Security-Policy"] = "frame-ancestors 'self'; base-uri 'none'; object-src 'none'"
        return response
