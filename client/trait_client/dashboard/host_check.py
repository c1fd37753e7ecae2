"""Only pages of this server may send requests: no other web page may read results through the user's browser."""

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
    """Middleware that refuses requests from other sites and sets the page's security headers.

    A foreign `Host` is a sign of DNS rebinding: the browser takes an attacker's name for this server. A foreign `Origin`
    or `Sec-Fetch-Site` means a page of another site; it may link here and nothing else.

    Args:
        app: The application behind the check.
        hosts: Accepted values of `Host`, `name:port`.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str]) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, or refuse it."""
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
            return f"Host {host[:100]!r} is not an address of this dashboard: open it as http://{min(self._hosts)}, or allow it with --host"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() not in self._hosts:
            return f"request from a page of {origin[:100]!r}: only the dashboard's own page may send requests"
        site = headers.get("sec-fetch-site", "none")
        linked = scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate" and scope["path"] == "/"
        if site not in {"same-origin", "none"} and not linked:
            return f"request from a {site} page: only the dashboard's own page may send requests"
        return None
