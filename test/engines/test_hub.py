"""A checkpoint from the hub, and what a manifest says of its source."""

import hashlib
import json
import shutil
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

import huggingface_hub
import pytest

from molmo2_ros.engines.hub import find_checkpoint, source_facts
from molmo2_ros.engines.weights import weights_sha256
from molmo2_ros.errors import EngineError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CARD = "---\nlicense: apache-2.0\ntags: [robots]\n---\n# A model\n"


class HubHandler(BaseHTTPRequestHandler):
    """The part of the hub's interface that fetching a snapshot uses, over one folder."""

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        folder = self.server.folder
        names = sorted(path.name for path in folder.iterdir())
        where = self.path.split("?")[0]
        if where.startswith("/api/models/some/model/revision/"):
            self.send(
                {"id": "some/model", "sha": COMMIT, "siblings": [{"rfilename": n} for n in names]}
            )
        elif where == f"/api/models/some/model/tree/{COMMIT}":
            self.send([self.entry(folder / name) for name in names])
        elif where.startswith(f"/some/model/resolve/{COMMIT}/"):
            self.server.fetched.append(where.rsplit("/", 1)[1])
            self.send((folder / where.rsplit("/", 1)[1]).read_bytes())
        else:
            self.send_error(404, headers={"X-Error-Code": "RepoNotFound"})

    def send_error(self, code, headers=()):
        self.send_response(code)
        for key, value in dict(headers).items():
            self.send_header(key, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def entry(self, path):
        size = path.stat().st_size
        lfs = {"oid": hashlib.sha256(path.read_bytes()).hexdigest(), "size": size, "pointerSize": 9}
        return {"type": "file", "path": path.name, "size": size, "oid": "b" * 40, "lfs": lfs}

    def send(self, content):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


def use_hub(address, cache, monkeypatch):
    """As HF_ENDPOINT and HF_HUB_CACHE do, which are read when the package is imported."""
    constants = huggingface_hub.constants
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))


@pytest.fixture
def hub(sharded, tmp_path, monkeypatch):
    """A server that holds a copy of the checkpoint as some/model."""
    folder = shutil.copytree(sharded, tmp_path / "served")
    (folder / "README.md").write_text(CARD)
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "modeling_molmo2.py").write_text("raise SystemExit('code of the hub ran')")
    server = ThreadingHTTPServer(("127.0.0.1", 0), HubHandler)
    server.folder, server.fetched = folder, []
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    use_hub(address, tmp_path / "cache", monkeypatch)
    yield server
    server.shutdown()
    server.server_close()


def test_checkpoint_is_fetched_by_its_name_without_pickles_and_code(hub):
    folder = find_checkpoint("some/model")
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors", ".md", ".jinja"}
    assert "pytorch_model.bin" not in hub.fetched
    num_fetched = len(hub.fetched)
    assert find_checkpoint("some/model", revision=COMMIT) == folder
    assert len(hub.fetched) == num_fetched  # from the cache


def test_source_names_checkpoint_commit_licence_hash_and_versions(hub, sharded):
    source = source_facts("some/model", find_checkpoint("some/model"))
    assert (source.checkpoint, source.revision) == ("some/model", COMMIT)
    assert source.license == "apache-2.0"
    assert source.weights_sha256 == weights_sha256(sharded)
    for package in ("torch", "transformers", "onnx", "onnx-ir", "safetensors"):
        assert source.versions[package] == version(package)


def test_model_that_the_hub_does_not_have_is_named(hub):
    with pytest.raises(EngineError, match="some/other is no folder here and cannot be fetched"):
        find_checkpoint("some/other")


def test_hub_that_cannot_be_reached_ends_with_a_clear_error(monkeypatch, tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        use_hub(address, tmp_path, monkeypatch)
        with pytest.raises(EngineError, match="check the name, the network, and HF_TOKEN"):
            find_checkpoint("allenai/Molmo2-4B")


def test_folder_is_taken_before_a_name_of_the_hub(tmp_path, monkeypatch):
    (tmp_path / "some" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert str(find_checkpoint("some/model")) == "some/model"
    assert find_checkpoint(tmp_path / "not-there") == tmp_path / "not-there"


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        (CARD, "apache-2.0"),
        ("# A model\nlicense: mit\n", ""),
        ("---\ntags: [robots]\n---\n", ""),
        ("---\nlicense: [\n---\n", ""),
        (None, ""),
    ],
)
def test_licence_is_what_the_model_card_says(checkpoint, tmp_path, card, licence):
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    if card is not None:
        (folder / "README.md").write_text(card)
    facts = source_facts(folder, folder)
    assert facts.license == licence
    assert (facts.checkpoint, facts.revision) == ("checkpoint", "")
    assert source_facts(folder, folder, "cc-by-4.0").license == "cc-by-4.0"
