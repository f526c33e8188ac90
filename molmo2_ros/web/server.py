"""Serves the application in a thread of its own, at an address that is judged first."""

from __future__ import annotations

import logging
import re
import secrets
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from molmo2_ros.errors import ConfigError

if TYPE_CHECKING:
    from molmo2_ros.web.access import Limits
    from molmo2_ros.web.backend import Backend
    from molmo2_ros.web.hub import Hub

_log = logging.getLogger(__name__)
_START_PATIENCE_S = 30.0
_END_PATIENCE_S = 5.0
_MAX_CONNECTIONS = 128
_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,256}", re.ASCII)  # fits into links and cookies


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where the page is served.

    Args:
        host: name or address to listen at.
        port: 0 for a free one.
        token: needed off loopback; "" has one made there.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    token: str = ""


class WebServer:
    """Runs until it is closed.

    Args:
        hub: what is known, and who looks.
        backend: who is asked.
        address: where.
        limits: of size and rate for each address that asks.

    Raises:
        ConfigError: the extra `web` is not installed, the address cannot be taken, or the token is
            too short.
    """

    def __init__(
        self,
        hub: Hub,
        backend: Backend,
        address: Address,
        *,
        limits: Limits | None = None,
    ) -> None:
        try:
            import uvicorn

            from molmo2_ros.web.access import is_loopback
            from molmo2_ros.web.app import make_app
        except ImportError as error:
            raise ConfigError(
                f"the live page needs {error.name}, which is not installed; pip install "
                '"molmo2_ros[web]"'
            ) from error
        token = address.token
        if token and not _TOKEN.fullmatch(token):
            raise ConfigError(
                f"the page's token has {len(token)} characters, expected 16 or more letters, "
                "digits, - and _; leave it empty to have one made"
            )
        if not token and not is_loopback(address.host):
            token = secrets.token_urlsafe(24)
        self.token = token
        self._socket = _listen(address)
        self.port: int = self._socket.getsockname()[1]
        self._host = address.host
        config = uvicorn.Config(
            make_app(hub, backend, token=token, limits=limits),
            log_config=None,
            access_log=False,
            server_header=False,
            ws="websockets-sansio",
            ws_max_size=16384,
            ws_per_message_deflate=False,  # JPEG does not get smaller, and it costs a core
            timeout_keep_alive=15,
            timeout_graceful_shutdown=2,
            limit_concurrency=_MAX_CONNECTIONS,
            h11_max_incomplete_event_size=16384,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)

    def start(self) -> None:
        """Begin to serve; returns once the page can be opened.

        Raises:
            ConfigError: it did not start.
        """
        self._thread.start()
        end = time.monotonic() + _START_PATIENCE_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > end:
                raise ConfigError("the page's server did not start; see the log above")
            time.sleep(0.01)

    @property
    def url(self) -> str:
        """What to open in a browser, with the token where one is needed."""
        host = "localhost" if self._host in ("", "0.0.0.0", "::") else self._host
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self.port}/" + (f"?token={self.token}" if self.token else "")

    def close(self) -> None:
        """Say goodbye to all viewers and end; may be called twice."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(_END_PATIENCE_S)
        self._socket.close()

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self._socket])
        except Exception:
            _log.exception("the page's server failed")


def _listen(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address.host, address.port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigError(
            f"the page cannot be served at {address.host}:{address.port} ({error}); choose another "
            "port, or end what listens there"
        ) from error
    return listener
