"""An application's own server: it authorizes channels, signs users in, and takes webhooks."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl

import pusher
import trio
from attrs import define, field
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from relay.server.http import HttpServer, open_listeners
from support.running import APP
from support.server_library import MASTER_KEY

Signed = Mapping[str, Any]
Sign = Callable[..., Awaitable[Signed]]
ANY_ORIGIN = {"Access-Control-Allow-Origin": "*"}


@define
class AppServer:
    """Who asks is whom the form says: `user_id`, `name`, and perhaps `watchlist` and `with_member`."""

    port: int = 0
    sign_channel: Sign | None = None
    sign_user: Sign | None = None
    webhooks: list[tuple[dict[str, str], str]] = field(factory=list)
    """Headers and body of each webhook."""
    webhook_status: int = 200
    """The status that webhooks are answered with."""
    news: trio.Event = field(factory=trio.Event)

    def options(self, user_id: str = "ada", **params: str) -> dict[str, Any]:
        """Options of pusher-js that let this server authorize as the user."""
        params = {"user_id": user_id, "name": user_id.title(), **params}
        url = f"http://127.0.0.1:{self.port}"
        return {
            "channelAuthorization": {"endpoint": f"{url}/auth", "transport": "ajax", "params": params},
            "userAuthentication": {"endpoint": f"{url}/user-auth", "transport": "ajax", "params": params},
        }

    async def authorize(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode()))
        channel, member = form["channel_name"], None
        if channel.startswith("presence-") or "with_member" in form:
            member = {"user_id": form["user_id"], "user_info": {"name": form["name"]}}
        sign = self.sign_channel or _sign_channel
        return JSONResponse(dict(await sign(form["socket_id"], channel, member)), headers=ANY_ORIGIN)

    async def authenticate(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode()))
        user: dict[str, Any] = {"id": form["user_id"], "user_info": {"name": form["name"]}}
        if "watchlist" in form:
            user["watchlist"] = form["watchlist"].split(",")
        sign = self.sign_user or _sign_user
        return JSONResponse(dict(await sign(form["socket_id"], user)), headers=ANY_ORIGIN)

    async def webhook(self, request: Request) -> Response:
        self.webhooks.append((dict(request.headers), (await request.body()).decode()))
        self.news.set()
        self.news = trio.Event()
        return Response(status_code=self.webhook_status)


def _library() -> pusher.Pusher:
    return pusher.Pusher(APP["id"], APP["key"], APP["secret"], encryption_master_key_base64=MASTER_KEY)


async def _sign_channel(socket_id: str, channel: str, member: Signed | None) -> Signed:
    signed = _library().authenticate(channel, socket_id, member)
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in signed.items()}


async def _sign_user(socket_id: str, user: Signed) -> Signed:
    signed: Signed = _library().authenticate_user(socket_id, user)
    return signed


@asynccontextmanager
async def app_server(sign_channel: Sign | None = None, sign_user: Sign | None = None) -> AsyncIterator[AppServer]:
    """Run an application's server for the length of the block."""
    server = AppServer(sign_channel=sign_channel, sign_user=sign_user)
    routes = [
        Route("/auth", server.authorize, methods=["POST"]),
        Route("/user-auth", server.authenticate, methods=["POST"]),
        Route("/webhooks", server.webhook, methods=["POST"]),
    ]
    listeners = await open_listeners("127.0.0.1", 0)
    server.port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        front = HttpServer(Starlette(routes=routes))
        await nursery.start(front.serve, listeners)
        yield server
        front.stop()
        nursery.cancel_scope.cancel()
