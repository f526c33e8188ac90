"""HTTP to one server: requests in threads of their own, whose replies come line by line.

The standard library does it: no robot needs a further package for a server that it may never have.
A call can be ended from any thread at any time; its socket is then shut down, which frees the
thread that waits for it and tells the server to stop.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from queue import SimpleQueue

from molmo2_ros.errors import ConfigError
from molmo2_ros.remote.address import Address

MAX_LINE = 1 << 20  # bytes; an event of one token has some hundred
MAX_REPLY = 32 << 20  # bytes of one answer
_MAX_REFUSAL = 8192  # bytes read of what a server says when it refuses
_MAX_RETRY_AFTER_S = 60.0
_IDLE_KEPT = 8  # connections
_CLOSED = "it closed the connection"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a reply, without its end."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """The reply came to its end as HTTP has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The server gave another status than 200."""

    status: int
    said: str  # the reply's text, cut
    retry_after_s: float | None  # as it asked for
    location: str  # host to which it redirects, "" for none


@dataclass(frozen=True, slots=True)
class Broken:
    """The connection failed, or the reply is none."""

    what: str


Event = Line | Ended | Refused | Broken
Events = SimpleQueue[tuple["Call", Event]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What passed between the two so far."""

    num_requests: int = 0
    num_connections: int = 0
    bytes_sent: int = 0  # of bodies
    bytes_received: int = 0


class Peer:
    """One server, and the connections to it that can be used again.

    Args:
        address: where it is.
        connect_timeout_s: to reach it, and for TLS.
        token: sent to this server alone; None for none. Redirects are never followed.

    Raises:
        ConfigError: the token holds what no header can hold.
    """

    def __init__(self, address: Address, *, connect_timeout_s: float, token: str | None) -> None:
        if token is not None and not re.fullmatch(r"[\x21-\x7e]+", token):
            raise ConfigError(
                "MOLMO2_API_KEY holds a blank, a line end or a character beyond ASCII, expected "
                "one word; set it again without"
            )
        self.address = address
        self._connect_timeout_s = connect_timeout_s
        self._token = token
        # Certificates are verified; SSL_CERT_FILE and SSL_CERT_DIR name other authorities.
        self._tls = ssl.create_default_context() if address.is_tls else None
        self._lock = threading.Lock()  # guards _idle and _traffic
        self._idle: list[http.client.HTTPConnection] = []
        self._traffic = Traffic()

    @property
    def has_token(self) -> bool:
        """Whether requests carry a token."""
        return self._token is not None

    @property
    def traffic(self) -> Traffic:
        """What passed so far."""
        with self._lock:  # guards _traffic
            return self._traffic

    def close(self) -> None:
        """Let the idle connections go."""
        with self._lock:  # guards _idle
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def call(self, path: str, body: bytes | None, events: Events) -> Call:
        """Begin a request: POST with a body of JSON, GET without.

        Args:
            path: below the address' own, such as "/models".
            body: JSON.
            events: gets what comes, together with the call.
        """
        headers = {"Accept-Encoding": "identity", "User-Agent": "molmo2_ros"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        return Call(self, self.address.path + path, body, headers, events)

    def take(self, *, is_fresh: bool) -> tuple[http.client.HTTPConnection, bool]:
        """A connection, and whether it has been used before."""
        with self._lock:  # guards _idle
            if self._idle and not is_fresh:
                return self._idle.pop(), True
        host, port, timeout = self.address.host, self.address.port, self._connect_timeout_s
        if self._tls is None:
            return http.client.HTTPConnection(host, port, timeout=timeout), False
        return http.client.HTTPSConnection(host, port, timeout=timeout, context=self._tls), False

    def give(self, connection: http.client.HTTPConnection) -> None:
        """Take back a connection that can be used again."""
        with self._lock:  # guards _idle
            if len(self._idle) < _IDLE_KEPT:
                self._idle.append(connection)
                return
        connection.close()

    def count(
        self, *, requests: int = 0, connections: int = 0, sent: int = 0, got: int = 0
    ) -> None:
        """Take note of what passed."""
        with self._lock:  # guards _traffic
            before = self._traffic
            self._traffic = Traffic(
                num_requests=before.num_requests + requests,
                num_connections=before.num_connections + connections,
                bytes_sent=before.bytes_sent + sent,
                bytes_received=before.bytes_received + got,
            )


class Call:
    """One request under way; made by `Peer.call`.

    Its events end with Ended, Refused or Broken, and after `abort` at any of them.
    """

    def __init__(
        self,
        peer: Peer,
        path: str,
        body: bytes | None,
        headers: dict[str, str],
        events: Events,
    ) -> None:
        self._events = events
        self._peer = peer
        self._path = path
        self._body = body
        self._headers = headers
        self._lock = threading.Lock()  # guards the two below
        self._socket: socket.socket | None = None
        self._is_aborted = False
        # A daemon: one that still waits for a connection must not keep the process alive.
        threading.Thread(target=self._run, name="remote", daemon=True).start()

    def abort(self) -> None:
        """End it now, whatever it waits for."""
        with self._lock:  # guards _socket and _is_aborted
            self._is_aborted = True
            if self._socket is not None:
                _shut_down(self._socket)

    def _run(self) -> None:
        self._peer.count(requests=1, sent=len(self._body or b""))
        try:
            last = self._exchange()
        except (OSError, ValueError, http.client.HTTPException) as error:
            last = Broken(_what_happened(error))
        self._events.put((self, last))

    def _exchange(self) -> Event:
        connection, is_used = self._peer.take(is_fresh=False)
        try:
            response = self._send(connection)
        except (http.client.HTTPException, OSError) as error:
            connection.close()
            if not is_used or self._is_aborted or not isinstance(error, ConnectionError):
                raise
            # It was closed while it lay idle: the server has not begun with this request.
            connection, _ = self._peer.take(is_fresh=True)
            response = self._send(connection)
        try:
            last = self._read(response)
            is_reusable = isinstance(last, Ended) and not response.will_close
        except (OSError, http.client.HTTPException):
            connection.close()
            raise
        with self._lock:  # guards _socket: what is given back is no longer ours to shut down
            self._socket = None
            is_reusable = is_reusable and not self._is_aborted
        if is_reusable:
            self._peer.give(connection)
        else:
            connection.close()
        return last

    def _send(self, connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
        if connection.sock is None:
            connection.connect()
            self._peer.count(connections=1)
        sock: socket.socket = connection.sock
        # From here on whoever waits for the answer watches the time, event by event.
        sock.settimeout(None)
        with self._lock:  # guards _socket and _is_aborted
            self._socket = sock
            if self._is_aborted:
                raise ConnectionAbortedError("ended by the caller")
        method = "GET" if self._body is None else "POST"
        try:
            connection.request(method, self._path, body=self._body, headers=self._headers)
        except (BrokenPipeError, ConnectionResetError):
            # It may have answered before it read everything: 413, 401, 429.
            return connection.getresponse()
        return connection.getresponse()

    def _read(self, response: http.client.HTTPResponse) -> Event:
        if response.status != 200:
            return self._refusal(response)
        num_bytes = 0
        while line := response.readline(MAX_LINE + 1):
            num_bytes += len(line)
            self._peer.count(got=len(line))
            if len(line) > MAX_LINE or num_bytes > MAX_REPLY:
                _shut_down(self._socket)
                return Broken(
                    f"sent a line of more than {MAX_LINE} bytes"
                    if len(line) > MAX_LINE
                    else f"sent more than {MAX_REPLY} bytes for one answer"
                )
            self._events.put((self, Line(line.rstrip(b"\r\n"))))
        is_whole = not response.length
        if response.chunked:
            is_whole = response.chunk_left is None  # behind the last chunk, or before the first
        if not is_whole:
            return Broken(_CLOSED)
        response.close()  # else the connection takes no further request
        return Ended()

    def _refusal(self, response: http.client.HTTPResponse) -> Refused:
        said = response.read(_MAX_REFUSAL)
        self._peer.count(got=len(said))
        return Refused(
            status=response.status,
            said=said.decode("utf-8", "replace") or response.reason,
            retry_after_s=_retry_after_s(response.getheader("Retry-After")),
            location=_host_of(response.getheader("Location")),
        )


def one_line(text: str, limit: int = 240) -> str:
    """What a server said, fit for a log: printable, in one line, cut."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def _shut_down(connection: socket.socket | None) -> None:
    """Free whoever reads from a socket, and tell the other side."""
    if connection is None:
        return
    with contextlib.suppress(OSError):  # the other side was faster
        # Not ssl's own: it would take the object away under whoever reads from it.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _what_happened(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted ({error.verify_message}); give SSL_CERT_FILE the "
            "certificate of your authority"
        )
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({one_line(str(error.reason or error))}); check http or https"
    if isinstance(error, socket.gaierror):
        return f"its name is unknown ({error.strerror})"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there"
    if isinstance(error, TimeoutError):
        return "it could not be reached in time"
    if isinstance(error, (http.client.IncompleteRead, http.client.RemoteDisconnected)):
        return _CLOSED
    if isinstance(error, http.client.HTTPException):
        return f"it does not speak HTTP as expected ({one_line(repr(error))})"
    return one_line(str(error)) or type(error).__name__


def _retry_after_s(header: str | None) -> float | None:
    """Seconds that a server asks to wait, at most a minute; None where it does not say."""
    if header is None:
        return None
    if re.fullmatch(r"\d{1,9}", header.strip()):
        wait_s = float(header)
    else:
        try:
            wait_s = parsedate_to_datetime(header).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return None
    return min(max(wait_s, 0.0), _MAX_RETRY_AFTER_S)


def _host_of(location: str | None) -> str:
    match = re.match(r"(https?://)(?:[^/@]*@)?([A-Za-z0-9.:-]{1,253})", location or "")
    return f"{match[1]}{match[2]}" if match else ("elsewhere" if location else "")
