"""`transformers serve` of a Molmo2 checkpoint, also where torchvision has no compiled half.

    python -c "from benchmarks.transformers_serve import main; main()" CHECKPOINT --port 8000

It is the installed server with the installed model; what is added is what engines/torchvision_ops
adds for the processors, and Pillow where torchvision cannot decode a JPEG.
"""

from __future__ import annotations

import argparse
import sys

from molmo2_ros.engines.torchvision_ops import declare_missing_ops


def decode_with_pillow() -> None:
    """Let transformers read pictures by its own `load_image`, where torchvision cannot."""
    from torchvision.io import image
    from transformers import image_processing_backends as backends
    from transformers.image_utils import load_image

    if image._has_image_ops():
        return
    as_tensor = backends.load_image_as_tensor
    backends.load_image_as_tensor = lambda picture: as_tensor(load_image(picture))


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    declare_missing_ops()
    decode_with_pillow()
    from transformers.cli.transformers import main as transformers

    sys.argv = ["transformers", "serve", options.checkpoint, "--host", "127.0.0.1"]
    sys.argv += ["--port", str(options.port), "--device", "cpu", "--dtype", "float32"]
    transformers()
