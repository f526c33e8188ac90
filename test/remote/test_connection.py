"""HTTP to one server: reuse, aborting, limits, redirects, tokens and TLS, over real sockets."""

import contextlib
import socket
import ssl
import subprocess
import threading
import time
from queue import SimpleQueue

import pytest

from benchmarks.nano_server import NanoServer
from molmo2_ros.errors import ConfigError, ServerError
from molmo2_ros.prompt.query import parse_query
from molmo2_ros.remote import connection
from molmo2_ros.remote.address import parse_address
from molmo2_ros.remote.connection import Broken, Ended, Line, Peer, Refused
from molmo2_ros.runtime.engine import load_engine

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
RED_MUG = parse_query("point: the red mug")


@contextlib.contextmanager
def raw_server(*replies):
    """A peer that reads a request and sends given bytes, one connection after the other.

    A reply of None leaves the connection open and says nothing.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    heads, held = [], []

    def serve():
        with contextlib.suppress(OSError):
            for reply in replies:
                client, _ = listener.accept()
                held.append(client)
                heads.append(client.recv(1 << 16))
                if reply is not None:
                    client.sendall(reply)
                    client.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1", heads
    finally:
        listener.shutdown(socket.SHUT_RDWR)  # wakes whoever accepts
        listener.close()
        for client in held:
            client.close()
        thread.join(2.0)


def make_peer(url, token=None):
    return Peer(parse_address(url), connect_timeout_s=2.0, token=token)


def exchange(peer, body=None, timeout_s=10.0):
    """All events of one request."""
    events = SimpleQueue()
    peer.call("/models", body, events)
    came = []
    while not came or isinstance(came[-1], Line):
        came.append(events.get(timeout=timeout_s)[1])
    return came


def test_requests_one_after_another_use_one_connection(server):
    peer = make_peer(server.url)
    for _ in range(3):
        *lines, last = exchange(peer)
        assert last == Ended()
        assert b"molmo2-nano" in lines[0].data
    assert (server.num_requests, server.num_connections) == (3, 1)
    assert (peer.traffic.num_requests, peer.traffic.num_connections) == (3, 1)


def test_a_connection_that_was_closed_while_idle_is_opened_anew():
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"  # and then closes, without saying so
    with raw_server(reply, reply) as (url, heads):
        peer = make_peer(url)
        assert exchange(peer) == [Line(b"{}"), Ended()]
        time.sleep(0.05)
        assert exchange(peer) == [Line(b"{}"), Ended()]
    assert len(heads) == 2


@pytest.mark.parametrize(
    ("reply", "what"),
    [
        (b"", "it closed the connection"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "it does not speak HTTP"),
        (CHUNKED + b"5\r\nab", "it closed the connection"),
        (CHUNKED + b"3\r\nab\n\r\n", "it closed the connection"),
        (CHUNKED + b"3\r\nab\n\r\nzz\r\n", "it closed the connection"),
        (OK + b"Content-Length: 9\r\n\r\nab\n", "it closed the connection"),
        (OK + b"X: y\r\n" * 200 + b"\r\n", "it does not speak HTTP"),
    ],
)
def test_a_peer_that_breaks_http_is_told_as_it_is(reply, what):
    with raw_server(reply) as (url, _):
        last = exchange(make_peer(url))[-1]
    assert isinstance(last, Broken)
    assert what in last.what


def test_nobody_listening_and_no_such_name_are_told():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert exchange(make_peer(f"http://127.0.0.1:{port}")) == [Broken("nothing listens there")]
    (event,) = exchange(make_peer("http://no-such-host.invalid"))
    assert event.what.startswith("its name is unknown")


@pytest.mark.parametrize(
    ("data", "what"),
    [(b"x" * 3000, "a line of more than 1000 bytes"), (b"x\n" * 3000, "more than 4000 bytes")],
)
def test_a_flood_is_cut(monkeypatch, data, what):
    monkeypatch.setattr(connection, "MAX_LINE", 1000)
    monkeypatch.setattr(connection, "MAX_REPLY", 4000)
    with raw_server(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + data) as (url, _):
        last = exchange(make_peer(url))[-1]
    assert what in last.what


def test_an_aborted_call_ends_at_once_and_its_connection_with_it():
    with raw_server(None) as (url, heads):
        events = SimpleQueue()
        call = make_peer(url).call("/models", None, events)
        while not heads:
            time.sleep(0.01)
        started = time.monotonic()
        call.abort()
        _, event = events.get(timeout=5.0)
        assert isinstance(event, Broken)
        assert time.monotonic() - started < 1.0


def test_a_refusal_says_how_long_to_wait():
    later = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 30))
    headers = {"2": 2.0, "9999999": 60.0, later: pytest.approx(30, abs=2), "soon": None}
    for value, wait_s in headers.items():
        head = f"HTTP/1.1 429 Busy\r\nRetry-After: {value}\r\nContent-Length: 4\r\n\r\nbusy"
        with raw_server(head.encode()) as (url, _):
            (event,) = exchange(make_peer(url))
        assert (event.status, event.said, event.retry_after_s) == (429, "busy", wait_s)


def test_an_answer_that_comes_before_the_request_was_read_is_heard():
    """As of a proxy that refuses large bodies: it answers and closes while we still send."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        client, _ = listener.accept()
        client.recv(1000)
        client.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        while client.recv(1 << 20):  # or the system would drop what was sent
            pass
        client.close()

    threading.Thread(target=serve, daemon=True).start()
    peer = make_peer(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
    (event,) = exchange(peer, b"x" * (8 << 20))
    listener.close()
    assert isinstance(event, Refused)
    assert event.status == 413


def test_a_token_goes_to_the_server_and_no_redirect_is_followed(remote, clip, monkeypatch):
    monkeypatch.setenv("MOLMO2_API_KEY", "s3cret-token")
    with raw_server(b"") as (elsewhere, stolen):
        head = f"HTTP/1.1 307 Go\r\nLocation: {elsewhere}/models\r\nContent-Length: 0\r\n\r\n"
        refused = pytest.raises(ServerError, match=r"redirects \(307\) to http://127.*final")
        with raw_server(head.encode()) as (url, heads), refused as got:
            remote(url).answer(clip, RED_MUG)
    assert b"Authorization: Bearer s3cret-token" in heads[0]
    assert stolen == []
    assert "s3cret" not in str(got.value)


def test_a_wrong_token_is_told_without_showing_it(server, remote, clip, monkeypatch):
    server.manners.key = "right"
    monkeypatch.setenv("MOLMO2_API_KEY", "wrong-s3cret")
    with pytest.raises(ServerError, match="401: Unauthorized.*set MOLMO2_API_KEY") as caught:
        remote(server.url).answer(clip, RED_MUG)
    assert "s3cret" not in str(caught.value)
    monkeypatch.setenv("MOLMO2_API_KEY", "right")
    assert remote(server.url).answer(clip, RED_MUG).points


@pytest.mark.parametrize("token", ["two words", "line\r\nX: y", "schl\u00fcssel"])
def test_a_token_that_no_header_can_hold_is_refused(remote, monkeypatch, token):
    monkeypatch.setenv("MOLMO2_API_KEY", token)
    with pytest.raises(ConfigError, match="MOLMO2_API_KEY holds a blank") as caught:
        remote("http://127.0.0.1:1/v1")
    assert token not in str(caught.value)


def test_a_token_that_would_travel_in_the_clear_is_warned_of(remote, monkeypatch, caplog):
    monkeypatch.setenv("MOLMO2_API_KEY", "s3cret")
    remote("http://127.0.0.1:1/v1")
    remote("https://robots.example/v1")
    assert caplog.text == ""
    remote("http://robots.example/v1")
    assert "unencrypted to http://robots.example:80/v1" in caplog.text
    assert "s3cret" not in caplog.text


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for 127.0.0.1 that nobody has signed, and its key, in one file."""
    folder = tmp_path_factory.mktemp("tls")
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        f"-subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1 -keyout {folder}/key.pem "
        f"-out {folder}/cert.pem"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    return folder


def test_certificates_are_verified_and_other_authorities_can_be_named(
    certificate, remote, clip, monkeypatch
):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    server = NanoServer(load_engine(threads=1), tls=context)
    try:
        with pytest.raises(ServerError, match="certificate is not trusted.*SSL_CERT_FILE"):
            remote(server.url).answer(clip, RED_MUG)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
        grounder = remote(server.url)
        partial = []
        assert grounder.answer(clip, RED_MUG, on_partial=partial.append).points
        assert partial
        plain = server.url.replace("https", "http")
        with pytest.raises(ServerError, match="no answer from http://127"):
            remote(plain).answer(clip, RED_MUG)
    finally:
        server.stop()


def test_tls_to_a_server_without_it_is_told(server, remote, clip):
    with pytest.raises(ServerError, match="TLS failed.*check http or https"):
        remote(server.url.replace("http", "https")).answer(clip, RED_MUG)
