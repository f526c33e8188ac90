"""cv_bridge's side of test_cv_bridge.py, run where it is installed: every encoding to rgb8.

    python3 test/camera/cv_bridge_side.py > test/camera/cv_bridge.json

Needs no ROS that runs and nothing of molmo2_ros: a sourced ROS 2, or Debian's python3-cv-bridge.
"""

import base64
import importlib.metadata
import json
from types import SimpleNamespace

import cv2
import numpy as np
from cv_bridge import CvBridge

HEIGHT, WIDTH = 4, 18  # wide enough for OpenCV's vector code and its rest
CHANNELS = {"rgb": 3, "bgr": 3, "rgba": 4, "bgra": 4, "mono": 1}
BAYER = [f"bayer_{pattern}" for pattern in ("rggb", "bggr", "gbrg", "grbg")]


def case(encoding, num_bytes_a_pixel, is_bigendian=False):
    """A message of random bytes, and what cv_bridge makes of it."""
    random = np.random.default_rng(len(encoding))
    data = random.integers(0, 256, HEIGHT * WIDTH * num_bytes_a_pixel, np.uint8).tobytes()
    fields = {
        "encoding": encoding,
        "height": HEIGHT,
        "width": WIDTH,
        "step": WIDTH * num_bytes_a_pixel,
        "is_bigendian": is_bigendian,
    }
    rgb = CvBridge().imgmsg_to_cv2(SimpleNamespace(**fields, data=data), "rgb8")
    return {**fields, "data": text(data), "rgb": text(rgb.tobytes())}


def text(data):
    return base64.b64encode(data).decode()


def main():
    """Print the table."""
    cases = [case(f"{name}8", num) for name, num in CHANNELS.items()]
    cases += [case(f"{name}8", 1) for name in BAYER] + [case("yuv422", 2)]
    for is_bigendian in (False, True):
        cases += [case(f"{name}16", 2 * num, is_bigendian) for name, num in CHANNELS.items()]
        cases += [case(f"{name}16", 2, is_bigendian) for name in BAYER]
    made_by = {
        "cv_bridge": importlib.metadata.version("cv_bridge"),
        "opencv": cv2.__version__,
        "numpy": np.__version__,
    }
    print(json.dumps({"made_by": made_by, "cases": cases}, indent=1))


if __name__ == "__main__":
    main()
