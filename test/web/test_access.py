"""Who may ask: hosts, origins, tokens, sizes and rates, over a real socket."""

import http.client
import json

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from molmo2_ros.errors import ConfigError
from molmo2_ros.web.access import Limits, is_loopback
from molmo2_ros.web.server import Address

TOKEN = "a-token-of-the-tests-own"


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "robot.example"},  # a name that was made to point here
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "localhost@evil.example"},
        {"Host": ""},
        {"Host": "[::1"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
    ],
)
def test_other_hosts_and_other_sites_are_refused(page, headers):
    refused = page.send("GET", "/api/state", **headers)
    assert refused.status == 403
    assert "another site" in refused.content["detail"] or "localhost" in refused.content["detail"]
    assert handshake(page, headers) == 403


def handshake(page, headers):
    """The status with which a WebSocket is taken or refused."""
    upgrade = {
        "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }  # fmt: skip
    connection = http.client.HTTPConnection("127.0.0.1", page.server.port, timeout=20)
    connection.request("GET", "/api/stream", headers={**upgrade, **headers})
    return connection.getresponse().status


def test_the_page_itself_and_programs_are_served(page):
    port = page.server.port
    for headers in (
        {},
        {"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"},
        {"Host": "[::1]:80"},
        {"Host": "molmo.localhost"},
    ):
        assert page.send("GET", "/api/state", **headers).status == 200


def test_every_response_tells_the_browser_what_it_may_not(page):
    for path in ("/", "/api/state", "/nowhere", "/page/main.js"):
        told = page.send("GET", path).headers
        assert "default-src 'none'" in told["Content-Security-Policy"]
        assert "unsafe" not in told["Content-Security-Policy"]
        assert told["X-Content-Type-Options"] == "nosniff"
        assert told["Server"] is None


def test_with_a_token_nothing_is_served_without_it(start):
    page = start(token=TOKEN)
    assert page.url.endswith(f"?token={TOKEN}")
    for path in ("/", "/api/state", "/page/main.js", "/?token=wrong", "/api/state?token=" + TOKEN):
        assert page.send("GET", path).status == 401, path
    wrong = {"Authorization": "Bearer nothing"}
    assert page.send("GET", "/api/state", **wrong).status == 401
    with pytest.raises(InvalidStatus, match="403"):
        connect(f"ws://127.0.0.1:{page.server.port}/api/stream")

    right = {"Authorization": f"Bearer {TOKEN}"}
    assert page.send("GET", "/api/state", **right).status == 200
    # Other names of this machine are served now: the token tells who asks.
    assert page.send("GET", "/api/state", Host="robot.local", **right).status == 200
    with connect(f"ws://127.0.0.1:{page.server.port}/api/stream", additional_headers=right) as ws:
        assert json.loads(ws.recv())["type"] == "hello"


def test_the_link_with_the_token_becomes_a_cookie_that_scripts_cannot_read(start):
    page = start(token=TOKEN)
    opened = page.send("GET", f"/?token={TOKEN}")
    assert (opened.status, opened.headers["Location"]) == (303, "/")
    cookie, *attributes = opened.headers["Set-Cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict"} <= set(attributes)
    assert page.send("GET", "/", Cookie=cookie).status == 200
    assert page.send("GET", "/", Cookie=cookie[:-1]).status == 401
    assert page.send("GET", "/", Cookie="molmo2_token=;;\x01=").status in (400, 401)


def test_large_requests_are_refused_with_and_without_their_length(page):
    text = json.dumps({"text": "x" * 40_000})
    assert page.send("POST", "/api/ask", text).status == 413
    connection = http.client.HTTPConnection("127.0.0.1", page.server.port, timeout=20)
    connection.putrequest("POST", "/api/ask")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    for _ in range(40):
        connection.send(b"400\r\n" + b"x" * 0x400 + b"\r\n")
    connection.send(b"0\r\n\r\n")
    assert connection.getresponse().status in (400, 413)
    assert page.request("GET", "/api/state").status == 200


def test_whoever_asks_too_often_waits(start):
    page = start(limits=Limits(requests_per_s=0.001, burst=3))
    replies = [page.request("GET", "/api/state") for _ in range(5)]
    assert [reply.status for reply in replies] == [200, 200, 200, 429, 429]
    assert replies[-1].headers["Retry-After"] == "1"


def test_a_short_token_and_a_port_that_is_taken_are_refused(start, page):
    with pytest.raises(ConfigError, match="token has 5 characters, expected 16 or more"):
        start(token="guess")
    with pytest.raises(ConfigError, match="choose another port"):
        start(port=page.server.port)


def test_off_loopback_a_token_is_made_and_needed(start):
    page = start(host="0.0.0.0")
    assert page.send("GET", "/api/state").status == 401
    token = page.url.partition("?token=")[2]
    assert len(token) >= 32
    told = page.send("GET", "/api/state", Host="robot:80", Authorization=f"Bearer {token}")
    assert told.status == 200


def test_without_a_token_only_loopback_is_served():
    assert is_loopback(Address().host)
    for host, inside in (
        ("localhost", True), ("127.0.0.9", True), ("[::1]", True), ("::1", True),
        ("0.0.0.0", False), ("192.168.1.4", False), ("robot", False), ("", False),
    ):  # fmt: skip
        assert is_loopback(host) is inside, host


@pytest.mark.parametrize(
    "path", ["/page/../app.py", "/page/%2e%2e%2fapp.py", "/page//etc/passwd", "/page/"]
)
def test_no_file_is_found_by_a_path(page, path):
    assert page.send("GET", path).status == 404
