"""`molmo2 build-engine`: an engine folder's graphs into TensorRT plans for one kind of GPU."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from molmo2_ros.runtime.tensorrt_plan import DEFAULT_FRAMES, DEFAULT_VERIFY, EMBEDDINGS

_DESCRIPTION = """\
Build an engine folder's ONNX graphs into TensorRT plans, for the GPU of this machine. The plans
go into a folder of their own inside it, and the node, `molmo2 ask` and load_engine take them from
then on. A plan runs on the kind of GPU, the TensorRT and the driver that it was built with; all
three are checked when it is loaded. docs/engines.md tells which export form goes where.
"""
_EPILOG = """\
examples:
  molmo2 build-engine engines/molmo2-4b
  molmo2 build-engine engines/molmo2-4b --max-frames 16 --embedding host     a board of 8 GB
  molmo2 build-engine engines/molmo2-4b --rtx-target 120                     for an RTX 50 elsewhere
"""


def add_parser(commands: Any) -> None:
    """Add `build-engine` to the command line."""
    parser = commands.add_parser(
        "build-engine",
        help="build an engine folder into TensorRT plans for one kind of GPU",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="ENGINE_FOLDER", help="of an exported model")
    parser.add_argument(
        "--verify-tokens",
        type=int,
        metavar="K",
        help=f"width of a pass that checks a draft (default: {DEFAULT_VERIFY})",
    )
    parser.add_argument(
        "--max-frames",
        type=int,
        metavar="N",
        help="frames of the longest clip (default: what the model was trained on, "
        f"{DEFAULT_FRAMES} at most)",
    )
    parser.add_argument(
        "--embedding",
        choices=EMBEDDINGS,
        help="where the embedding table stands: on the device (default), or in a file that the "
        "host reads, for boards of 8 GB",
    )
    parser.add_argument(
        "--workspace",
        type=int,
        metavar="MB",
        help="scratch memory that TensorRT may try kernels with (default: 1024)",
    )
    parser.add_argument(
        "--rtx-target",
        metavar="SM",
        help="build with TensorRT-RTX for a GPU of this compute capability (75, 80, 86, 89, 120, "
        "121), which need not be here",
    )
    parser.add_argument(
        "--rebuild",
        action="store_true",
        help="replace plans that are there; what is not given stays as it was",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, not a table")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Build, let what was built for this machine prove itself, and say what it is.

    Raises:
        EngineError: the folder, TensorRT, the GPU or the disk is unfit, or the plans compute
            something else than the model.
    """
    from molmo2_ros.engines.build_tensorrt import build_engine
    from molmo2_ros.runtime.engine import load_engine

    with _Bars() as bars:
        folder, record = build_engine(
            options.folder,
            max_frames=options.max_frames,
            verify_tokens=options.verify_tokens,
            embedding=options.embedding,
            workspace_mb=options.workspace,
            rtx_target=options.rtx_target,
            rebuild=options.rebuild,
            progress=bars.show,
        )
    if options.rtx_target is None:
        load_engine(options.folder, device="cuda")
    if options.json:
        print(json.dumps({"folder": str(folder), **asdict(record)}))
        return
    key, limits = record.key, record.limits
    print(f"{folder}: {key.product} {key.version}, compute capability {key.sm}")
    print(
        f"  clips of {limits.max_frames} frames, passes of {limits.prefill_tokens} tokens, drafts "
        f"of {limits.verify_tokens}, a cache of {limits.past_tokens}, the embedding on the "
        f"{limits.embedding}"
    )
    for name, entry in record.files.items():
        seconds = record.seconds.get(Path(name).stem)
        took = "" if seconds is None else f"  built in {seconds:.1f} s"
        print(f"  {name:<16}{entry.bytes / 1e6:>10.1f} MB{took}")


class _Bars:
    """One progress bar, on stderr, for the phase that TensorRT is in."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._phase = ""

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def show(self, phase: str, step: int, steps: int) -> None:
        """Move the bar; another phase gets a new one."""
        if phase != self._phase:
            self._close()
            self._phase = phase
            self._bar = tqdm(total=steps, desc=phase, disable=None, leave=False)
        self._bar.update(step - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
