"""Where a server is: a URL, judged before anything is sent to it."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from molmo2_ros.errors import ConfigError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_HOST = re.compile(r"[A-Za-z0-9_.:%-]{1,253}", re.ASCII)
_PATH = re.compile(r"[A-Za-z0-9._~/-]*", re.ASCII)
_EXAMPLE = "expected one such as http://host:8000/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Host, port and the path under which a server offers its interface."""

    is_tls: bool
    host: str
    port: int
    path: str  # "/v1", without a slash at its end

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.is_tls else 'http'}://{host}:{self.port}{self.path}"

    @property
    def is_this_machine(self) -> bool:
        """Whether nothing that is sent there leaves the machine."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def is_url(engine: str) -> bool:
    """Whether an engine is named by a URL, of whatever kind, and not by a folder."""
    return _SCHEME.match(engine) is not None


def parse_address(url: str) -> Address:
    """Read a server's URL; one without a path means /v1.

    Raises:
        ConfigError: not http or https, credentials in it, a query or fragment, or no host. The
            message never repeats credentials.
    """
    if len(url) > 2000 or any(character <= " " or character == "\x7f" for character in url):
        raise ConfigError(
            f"the engine's URL has {len(url)} characters, some perhaps blanks, {_EXAMPLE}"
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"the engine's URL cannot be read ({error}), {_EXAMPLE}") from None
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            f"the engine's URL for {parts.hostname} holds a user or a password, where logs and "
            "`ros2 param get` show it; leave it out and set MOLMO2_API_KEY in the environment"
        )
    if parts.scheme not in ("http", "https"):
        raise ConfigError(
            f"the engine's URL begins with {parts.scheme}://, expected http:// or https://, or a "
            "folder's path"
        )
    if parts.query or parts.fragment or not _PATH.fullmatch(parts.path):
        raise ConfigError(
            f"the engine's URL for {parts.hostname} has a query, a fragment or a path with "
            f"unusual characters, {_EXAMPLE}"
        )
    if not parts.hostname or not _HOST.fullmatch(parts.hostname) or port == 0:
        raise ConfigError(f"the engine's URL names no host and port to call, {_EXAMPLE}")
    is_tls = parts.scheme == "https"
    return Address(
        is_tls=is_tls,
        host=parts.hostname,
        port=port or (443 if is_tls else 80),
        path=parts.path.rstrip("/") or "/v1",
    )
