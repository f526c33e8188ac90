"""Any model that can be measured: an engine folder, a server, or a checkpoint under torch."""

from __future__ import annotations

from dataclasses import dataclass

from molmo2_ros.asking import AnyGrounder
from molmo2_ros.opening import facts_of, grounder_of, open_model
from molmo2_ros.remote.server import RemoteServer, RemoteSettings
from molmo2_ros.training.pairs import excludes_pairs, trained_without_pairs

TORCH = "torch:"
# Nobody waits for an answer, and a busy server is no reason to begin again.
_PATIENT = RemoteSettings(patience_s=600, first_token_timeout_s=600, token_timeout_s=120)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A model, ready to be asked.

    Args:
        grounder: asks it.
        name: of the model.
        pairs_excluded: whether it is known to have been trained without `training/pairs.py`.
    """

    grounder: AnyGrounder
    name: str
    pairs_excluded: bool


def open_any(engine: str, *, threads: int | None = None, dtype: str = "float32") -> Opened:
    """Open a model by what somebody calls it.

    Args:
        engine: an engine folder (ONNX graphs, or TensorRT plans beside them), "nano", the URL of a
            server, or `torch:` with the folder or hub name of a checkpoint.
        threads: CPU threads for one operator.
        dtype: "float32" or "bfloat16", of a checkpoint under torch.

    Raises:
        EngineError: the folder is unfit.
        ServerError: the server cannot be reached.
        ConfigError: the URL is unfit.
    """
    if engine.startswith(TORCH):
        from molmo2_ros.training.evaluation.torch_grounder import TorchGrounder

        grounder = TorchGrounder(engine[len(TORCH) :], dtype=dtype, threads=threads)
        return Opened(
            grounder=grounder,
            name=grounder.model.name,
            pairs_excluded=trained_without_pairs(grounder.folder),
        )
    model = open_model(engine, threads=threads, remote=_PATIENT)
    if isinstance(model, RemoteServer):
        model.connect()
        config = {}
    else:
        config = dict(model.manifest.training.config)
    return Opened(
        grounder=grounder_of(model),
        name=facts_of(model).name,
        pairs_excluded=excludes_pairs(config),
    )
