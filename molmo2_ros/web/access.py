"""Who may ask: hosts, origins, the token, sizes and rates are judged before anything else runs."""

from __future__ import annotations

import ipaddress
import json
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

MAX_BODY_BYTES = 16384
COOKIE = "molmo2_token"
_MAX_CLIENTS = 1024  # whose rates are kept
_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        b"connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
        b"frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one address may ask of the server.

    Args:
        requests_per_s: on average.
        burst: at once.
        body_bytes: of one request.
    """

    requests_per_s: float = 20.0
    burst: int = 60
    body_bytes: int = MAX_BODY_BYTES


class _Refused(Exception):
    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine alone."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Access:
    """ASGI middleware around the whole server, its WebSocket included.

    A browser that another page misuses is told by its Origin, which must be the host that it
    speaks to; a name that was made to point here (DNS rebinding) by its Host, which on loopback
    must be loopback's own. Without a token only loopback is served.

    Args:
        app: what is guarded.
        token: whoever asks must know it; "" for none.
        limits: for each address.
        clock: seconds that only run forward.
    """

    def __init__(
        self,
        app: App,
        *,
        token: str,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._token = token
        self._limits = limits
        self._clock = clock
        # Tokens of a bucket and when they were counted, by address.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Judge, then hand on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = _headers(scope)
        try:
            self._judge_place(headers)
            self._judge_rate(scope)
            if self._token and self._gives_token(scope):
                await _keep_token(scope, send, self._token)
                return
            self._judge_token(headers)
            self._judge_size(headers)
        except _Refused as refused:
            await _refuse(scope, send, refused)
            return
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
            return
        await self._app(scope, self._measured(receive), _guarded(send))

    def _judge_place(self, headers: dict[str, str]) -> None:
        host = headers.get("host", "")
        name = _host_name(host)
        if name is None or not (self._token or is_loopback(name)):
            raise _Refused(
                HTTPStatus.FORBIDDEN,
                f"this server is reached as {host[:80]!r}, expected localhost: without a token it "
                "serves this machine alone",
            )
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            raise _Refused(
                HTTPStatus.FORBIDDEN, "another site's page may not use this server from a browser"
            )
        if headers.get("sec-fetch-site") == "cross-site" and "origin" in headers:
            raise _Refused(HTTPStatus.FORBIDDEN, "another site's page may not use this server")

    def _judge_rate(self, scope: Message) -> None:
        client = (scope.get("client") or ("", 0))[0]
        now_s, limits = self._clock(), self._limits
        tokens, since_s = self._buckets.pop(client, (float(limits.burst), now_s))
        tokens = min(limits.burst, tokens + (now_s - since_s) * limits.requests_per_s)
        allowed = tokens >= 1
        self._buckets[client] = (tokens - 1 if allowed else tokens, now_s)
        if len(self._buckets) > _MAX_CLIENTS:
            self._buckets.popitem(last=False)
        if not allowed:
            raise _Refused(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"more than {limits.requests_per_s:g} requests a second; ask again in a second",
            )

    def _gives_token(self, scope: Message) -> bool:
        """Whether the page is opened by the link that holds the token."""
        if scope["type"] != "http" or scope["method"] != "GET" or scope["path"] != "/":
            return False
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        return _equal(given, self._token)

    def _judge_token(self, headers: dict[str, str]) -> None:
        if not self._token:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _equal(given.strip(), self._token):
            return
        cookies: SimpleCookie = SimpleCookie()
        try:
            cookies.load(headers.get("cookie", ""))
        except CookieError:
            cookies.clear()
        if COOKIE in cookies and _equal(cookies[COOKIE].value, self._token):
            return
        raise _Refused(
            HTTPStatus.UNAUTHORIZED,
            "a token is needed: open the link that the server printed at its start (it ends in "
            "?token=...), or send the header Authorization: Bearer TOKEN",
        )

    def _judge_size(self, headers: dict[str, str]) -> None:
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdecimal()):
            raise _Refused(HTTPStatus.BAD_REQUEST, "Content-Length is no number")
        if int(length) > self._limits.body_bytes:
            raise _too_large(self._limits.body_bytes)

    def _measured(self, receive: Receive) -> Receive:
        """A body whose length was not told is cut off where it is too long."""
        num_bytes = 0

        async def receive_measured() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._limits.body_bytes:
                return {"type": "http.disconnect"}
            return message

        return receive_measured


def _too_large(limit: int) -> _Refused:
    return _Refused(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a request may have {limit} bytes; send less"
    )


def _headers(scope: Message) -> dict[str, str]:
    return {
        name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
    }


def _host_name(host: str) -> str | None:
    """The name of a Host header without its port, None where it is no such header."""
    try:
        parts = urlsplit(f"//{host}")
        return parts.hostname if host and not parts.path and not parts.username else None
    except ValueError:
        return None


def _equal(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode(), token.encode())


def _guarded(send: Send) -> Send:
    async def send_guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
        await send(message)

    return send_guarded


async def _keep_token(scope: Message, send: Send, token: str) -> None:
    """Put the token where scripts and the address bar do not show it."""
    cookie = f"{COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict"
    if scope.get("scheme") == "https":
        cookie += "; Secure"
    await _respond(
        send,
        HTTPStatus.SEE_OTHER,
        b"",
        (b"location", b"/"),
        (b"set-cookie", cookie.encode("latin-1")),
        (b"cache-control", b"no-store"),
    )


async def _refuse(scope: Message, send: Send, refused: _Refused) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": str(refused)[:120]})
        return
    extra = []
    if refused.status is HTTPStatus.TOO_MANY_REQUESTS:
        extra.append((b"retry-after", b"1"))
    if refused.status is HTTPStatus.UNAUTHORIZED:
        extra.append((b"www-authenticate", b"Bearer"))
    body = json.dumps({"detail": str(refused)}).encode()
    await _respond(send, refused.status, body, (b"content-type", b"application/json"), *extra)


async def _respond(
    send: Send, status: HTTPStatus, body: bytes, *headers: tuple[bytes, bytes]
) -> None:
    length = (b"content-length", str(len(body)).encode())
    start = {"type": "http.response.start", "status": int(status), "headers": [*headers, length]}
    await _guarded(send)(start)
    await send({"type": "http.response.body", "body": body})
