"""molmo2-nano behind vLLM's interface: for bench_remote.py, and for tests of bad manners.

The model is the shipped engine, the pictures are decoded, the prompt is the one that vLLM makes of
the same request, and tokens are streamed as they are written. What vLLM does on request or by
mistake, and what any server or network may do, is a field of Manners.

    python -c "from benchmarks.nano_server import main; main()" --port 8000
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import math
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import cv2
import numpy as np

from molmo2_ros.camera.frame import Frame
from molmo2_ros.prompt.layout import Prompt, clip_prefix, images_prefix, question_suffix
from molmo2_ros.prompt.tokenizer import PromptTokenizer
from molmo2_ros.runtime.decoding import generate, prefill
from molmo2_ros.runtime.engine import Engine, load_engine
from molmo2_ros.runtime.features import FeatureCache

DEFAULT_FRAMES = 32  # that vLLM takes of a video where it is not told


@dataclass(kw_only=True)
class Manners:
    """How the server behaves; may be changed while it runs."""

    model: str = "molmo2-nano"
    models: tuple[str, ...] | None = None  # offered; None for the one
    key: str = ""  # that it expects; "" for none
    trusts_kwargs: bool = True  # as vLLM with --trust-request-mm-kwargs
    takes_video: bool = True
    max_frames: int | None = None  # kept of a clip, whatever it is told
    max_frames_streamed: int | None = None  # the same, of questions that are answered only
    heeds_times: bool = True
    counts: bool = True  # tells how many tokens a prompt has
    gives_logprobs: bool = True
    heeds_limit: bool = True
    refusals: list[tuple[int, Mapping[str, str], str]] = field(default_factory=list)  # of the next
    wait_s: float = 0.0  # before an answer's first word
    token_wait_s: float = 0.0  # before each token
    cut_after: int | None = None  # tokens, then the connection is closed
    stall_after: int | None = None  # tokens, then nothing more comes
    instead: bytes | None = None  # sent in place of an answer's events
    refuses: str = ""  # "connection": closes every one unread


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an answer as it is sent."""

    text: str
    probability: float


class NanoServer:
    """A server in threads of this process.

    Args:
        engine: whose model is offered; shared with nobody else.
        port: 0 for any that is free.
        tls: wraps its socket; None for plain HTTP.
    """

    def __init__(self, engine: Engine, *, port: int = 0, tls: Any = None) -> None:
        self.manners = Manners()
        self.num_requests = 0
        self.num_connections = 0
        self.connections: list[socket.socket] = []
        self.num_broken_off = 0  # answers whose reader went away
        self.seen: list[dict[str, Any]] = []  # bodies, without their pictures
        self.headers: list[dict[str, str]] = []
        self._engine = engine
        self._tokenizer = PromptTokenizer(engine.folder)
        self._lock = threading.Lock()  # guards the engine
        self._stopping = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self._http.daemon_threads = True
        if tls is not None:
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True)
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self._http.server_port}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._http.server_port

    def stop(self) -> None:
        """End as a process does: nobody listens, and every connection is closed."""
        self._stopping.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def is_over_after(self, seconds: float) -> bool:
        """Let time pass; True where the server ends meanwhile."""
        return self._stopping.wait(seconds)

    def read(self, body: Mapping[str, Any]) -> tuple[Prompt, Prompt, list[Frame], bool]:
        """The prompt's two parts and the pictures of a request."""
        frames: list[Frame] = []
        times_s: Sequence[float] | None = None
        question = ""
        for part in body["messages"][0]["content"]:
            if part["type"] == "text":
                question = part["text"]
            elif part["type"] == "image_url":
                frames.append(_picture(part["image_url"]["url"].split(",")[1]))
            else:
                clip, times_s = self._clip(part["video_url"]["url"], body)
                frames += clip
        features = FeatureCache(self._engine)
        if times_s is None:
            grids = [image.grid for image in features.images(frames)]
            prefix = images_prefix(self._tokenizer, grids)
        else:
            prefix = clip_prefix(self._tokenizer, times_s, features.tokens_per_frame)
        return prefix, question_suffix(self._tokenizer, question), frames, times_s is None

    def _clip(self, url: str, body: Mapping[str, Any]) -> tuple[list[Frame], list[float]]:
        """A sequence of JPEGs as vLLM reads it, and the times that it gives its frames."""
        facts = body.get("media_io_kwargs", {}).get("video", {})
        pictures = url.partition(",")[2].split(",")
        wanted = facts.get("num_frames", DEFAULT_FRAMES)
        most = self.manners.max_frames
        if body.get("stream"):
            most = self.manners.max_frames_streamed or most
        kept = len(pictures) if wanted == -1 else min(wanted, len(pictures))
        kept = kept if most is None else min(kept, most)
        indices = facts.get("frames_indices") if self.manners.heeds_times else None
        fps = facts.get("fps", 1.0) if self.manners.heeds_times else 1.0
        at = indices if indices is not None else list(range(len(pictures)))
        return [_picture(text) for text in pictures[:kept]], [at[i] / fps for i in range(kept)]

    def answer(
        self, prefix: Prompt, suffix: Prompt, frames: list[Frame], are_images: bool, limit: int
    ) -> tuple[list[Token], bool]:
        """What the model writes, and whether the limit cut it off."""
        ids: list[int] = []
        probabilities: list[float] = []

        def note(_: int, new_ids: Sequence[int], new: Sequence[float], is_last: bool) -> None:
            ids.extend(new_ids)
            probabilities.extend(new)

        with self._lock:  # guards the engine
            features = FeatureCache(self._engine)
            if are_images:
                features_MD = np.concatenate([i.features_MD for i in features.images(frames)])
            else:
                features_MD = features.frames(frames)
            read = prefill(self._engine, prefix, features_MD)
            (written,) = generate(
                self._engine, read, [suffix.ids], max_new_tokens=limit, on_tokens=note
            )
        texts = map(self._tokenizer.decode_one, ids)
        tokens = [Token(*pair) for pair in zip(texts, probabilities, strict=True)]
        return tokens, written.truncated


def _picture(text: str) -> Frame:
    data = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    image = cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return Frame(image=image, stamp_ns=0)


def _handler(server: NanoServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # or each answer waits 40 ms for an acknowledgement

        def setup(self) -> None:
            super().setup()
            server.num_connections += 1
            server.connections.append(self.connection)

        def log_message(self, format: str, *values: Any) -> None:
            """Nothing: a test's output is its own."""

        def do_GET(self) -> None:
            server.num_requests += 1
            if self._may_enter():
                self._models()

        def do_POST(self) -> None:
            server.num_requests += 1
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.seen.append({key: body[key] for key in body if key != "messages"})
            if self._may_enter():
                self._chat(body)

        def _may_enter(self) -> bool:
            manners = server.manners
            server.headers.append(dict(self.headers.items()))
            if manners.refuses:
                self.close_connection = True
                self.connection.close()
                return False
            if not self.path.startswith("/v1/"):
                self._reply({"detail": "Not Found"}, 404)
                return False
            if manners.key and self.headers.get("Authorization") != f"Bearer {manners.key}":
                self._reply({"error": {"message": "Unauthorized"}}, 401)
                return False
            return True

        def _models(self) -> None:
            manners = server.manners
            names = (manners.model,) if manners.models is None else manners.models
            limit = server._engine.manifest.text.max_positions
            self._reply({"data": [{"id": name, "max_model_len": limit} for name in names]})

        def _chat(self, body: Mapping[str, Any]) -> None:
            manners = server.manners
            if body.get("stream") and manners.refusals:
                status, headers, text = manners.refusals.pop(0)
                self._reply(text, status, headers)
                return
            if body.get("media_io_kwargs") and not manners.trusts_kwargs:
                message = "Start the server with --trust-request-mm-kwargs"
                self._reply({"error": {"message": message, "code": 400}}, 400)
                return
            if "video_url" in json.dumps(body["messages"])[:200] and not manners.takes_video:
                self._reply({"detail": "no video here"}, 422)
                return
            prefix, suffix, frames, are_images = server.read(body)
            num_prompt = len(prefix) + len(suffix)
            if not body.get("stream"):
                usage = {"usage": {"prompt_tokens": num_prompt}} if manners.counts else {}
                self._reply({"choices": [{"message": {"content": ""}}], **usage})
                return
            limit = body["max_tokens"] if manners.heeds_limit else 100_000
            limit = min(limit, server._engine.manifest.text.max_positions - num_prompt - 8)
            if server.is_over_after(manners.wait_s):
                return
            tokens, is_cut = server.answer(prefix, suffix, frames, are_images, limit)
            try:
                self._stream(tokens, is_cut, num_prompt)
            except OSError:
                server.num_broken_off += 1
                self.close_connection = True

        def _stream(self, tokens: Sequence[Token], is_cut: bool, num_prompt: int) -> None:
            manners = server.manners
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            if manners.instead is not None:
                self._chunk(manners.instead)
                self._chunk(b"")
                return
            self._event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
            for number, token in enumerate(tokens):
                if number == manners.cut_after:
                    self.close_connection = True
                    return
                if number == manners.stall_after:
                    server.is_over_after(60.0)
                    return
                if manners.token_wait_s:
                    time.sleep(manners.token_wait_s)
                self._event({"choices": [_choice(token, manners.gives_logprobs)]})
            reason = "length" if is_cut else "stop"
            self._event({"choices": [{"delta": {}, "finish_reason": reason}]})
            if manners.counts:
                usage = {"prompt_tokens": num_prompt, "completion_tokens": len(tokens)}
                self._event({"choices": [], "usage": usage})
            self._chunk(b"data: [DONE]\n\n")
            self._chunk(b"")

        def _event(self, content: Any) -> None:
            self._chunk(b"data: " + json.dumps(content).encode() + b"\n\n")

        def _chunk(self, data: bytes) -> None:
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

        def _reply(
            self, content: Any, status: int = 200, headers: Mapping[str, str] | None = None
        ) -> None:
            data = (content if isinstance(content, str) else json.dumps(content)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

    return Handler


def _choice(token: Token, gives_logprobs: bool) -> dict[str, Any]:
    logprob = math.log(max(token.probability, 1e-9))
    said = {"logprobs": {"content": [{"token": token.text, "logprob": logprob}]}}
    return {"delta": {"content": token.text}, **(said if gives_logprobs else {})}


@contextmanager
def nano_server(engine: Engine, **manners: Any) -> Iterator[NanoServer]:
    """A server with some manners, ended afterwards."""
    server = NanoServer(engine)
    server.manners = replace(server.manners, **manners)
    try:
        yield server
    finally:
        server.stop()


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    server = NanoServer(load_engine(threads=1), port=options.port)
    print(server.url, flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        server.stop()
