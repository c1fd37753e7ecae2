"""Who may ask: pages of this very server. A page elsewhere on the web must not read results through the user's browser."""

from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
SECURITY_HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class HostCheck:
    """Refuses requests that another site could cause, and says what the page may do.

    A `Host` that is not ours is DNS rebinding: the browser believes that a name of the attacker's is this server. An
    `Origin` or `Sec-Fetch-Site` that is not ours is a page elsewhere; it may link here and nothing else.

    Args:
        app: The application behind the check.
        hosts: Values of `Host` that are ours, `name:port`.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str]) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_checked(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY_HEADERS)
            await send(message)

        refused = self._refusal(scope)
        if refused is not None:
            answer = JSONResponse({"error": {"message": refused, "type": "ForbiddenError", "code": 403}}, 403)
            await answer(scope, receive, send_checked)
        else:
            await self._app(scope, receive, send_checked)

    def _refusal(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "").lower()
        if host not in self._hosts:
            return f"Host {host[:100]!r} is not this dashboard: open it as http://{min(self._hosts)}, or name it with --host"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() not in self._hosts:
            return f"a page of {origin[:100]!r} asks: only the dashboard's own page may"
        site = headers.get("sec-fetch-site", "none")
        linked = scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate" and scope["path"] == "/"
        if site not in {"same-origin", "none"} and not linked:
            return f"a {site} page asks: only the dashboard's own page may"
        return None
