"""What must stand before the first import of rclpy, torch or hypothesis, whoever starts pytest."""

import os
import sys
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings

# The Python wheels of ROS 2 are a prefix of their own and do not announce it.
if (Path(sys.prefix) / "share" / "ament_index").is_dir():
    os.environ.setdefault("AMENT_PREFIX_PATH", sys.prefix)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ["ROS_PYTHON_CHECK_FIELDS"] = "1"  # Humble always checks; later releases only when told
os.environ.setdefault("ROS_LOG_DIR", tempfile.mkdtemp(prefix="molmo2_ros_log_"))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # small models: threads cost more than they bring

settings.register_profile(
    "house",
    deadline=None,  # a busy machine is no failure
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,
)
settings.load_profile("house")
