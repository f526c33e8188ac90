"""Makes a torchvision without its compiled half importable, as transformers' processors need it.

The published torchvision wheels link CUDA's torch; beside a CPU build of torch the compiled half
does not load and `import torchvision` stops at "operator torchvision::nms does not exist", and with
it every Molmo2 class of transformers. The resize path that Molmo2 uses is pure Python.
"""

from __future__ import annotations

from functools import cache

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


@cache  # keeps the library alive: its definitions go when it is freed
def declare_missing_ops() -> torch.library.Library | None:
    """Declare the two operators whose absence stops the import; call before importing transformers.

    Returns:
        The library that holds the declarations; None where torchvision is absent or whole.
    """
    try:
        import torchvision  # noqa: F401
    except ImportError:
        return None
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    else:
        return None
    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    return library
