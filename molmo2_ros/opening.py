"""Who runs the model: an engine folder on this machine, or a server that is named by its URL."""

from __future__ import annotations

from collections.abc import Callable

from molmo2_ros.asking import AnyGrounder, ModelFacts, model_facts
from molmo2_ros.grounder import MAX_FRAMES, Grounder
from molmo2_ros.remote.address import is_url, parse_address
from molmo2_ros.remote.grounder import RemoteGrounder, refuse_constrained
from molmo2_ros.remote.server import RemoteServer, RemoteSettings
from molmo2_ros.runtime.engine import Engine, load_engine

Model = Engine | RemoteServer

_FRAMES_OF_CAMERA = 64  # more than a clip that is tracked in has


def open_model(
    engine: str | None,
    *,
    threads: int | None = None,
    device: str = "auto",
    rebuild: bool = False,
    self_test: str = "refuse",
    remote: RemoteSettings | None = None,
    constrained: bool = False,
    load: Callable[..., Engine] = load_engine,
) -> Model:
    """Load an engine, or make ready to ask a server; the server need not run yet.

    Args:
        engine: a folder, None or "nano" for the shipped model, or a URL of http or https. It comes
            from a parameter or the command line; never take it from a topic.
        threads: as in `load_engine`; a server has its own.
        device: likewise.
        rebuild: likewise.
        self_test: likewise.
        remote: how a server is asked.
        constrained: whether answers are to follow the grammar.
        load: loads a folder.

    Raises:
        EngineError: the folder is unfit, or its self-test fails.
        ConfigError: the URL is unfit, or a server cannot do what is asked for.
    """
    if engine is None or not is_url(engine):
        folder = None if engine == "nano" else engine
        return load(folder, threads=threads, device=device, rebuild=rebuild, self_test=self_test)
    refuse_constrained(constrained)
    return RemoteServer(parse_address(engine), remote or RemoteSettings())


def grounder_of(model: Model, *, constrained: bool = False, num_cameras: int = 1) -> AnyGrounder:
    """What asks a model, wherever it runs.

    Args:
        model: from `open_model`.
        constrained: whether answers are to follow the grammar.
        num_cameras: whose frames are kept encoded side by side.
    """
    if isinstance(model, RemoteServer):
        return RemoteGrounder(model)
    max_frames = max(MAX_FRAMES, _FRAMES_OF_CAMERA * num_cameras)
    return Grounder(model, max_frames=max_frames, constrained=constrained)


def facts_of(model: Model) -> ModelFacts:
    """What a model is called and was taught, as far as it is known."""
    return model.model if isinstance(model, RemoteServer) else model_facts(model.manifest)
