# molmo2_ros on a desktop or server with an NVIDIA GPU, or on its CPU. NOT RUN BY US: it is linted only.
#
#   docker build -f docker/desktop.Dockerfile -t molmo2_ros .
#   docker run --rm -it --gpus all --network host --ipc host -v ~/engines:/engines:ro molmo2_ros \
#       image:=/camera/color/image_raw engine:=/engines/molmo2-4b queries:="['point: the red mug']"
#
# Without a GPU: --build-arg ONNXRUNTIME=onnxruntime, and no --gpus. --ipc host lets Fast DDS share
# memory with cameras outside.
ARG ROS_DISTRO=jazzy
FROM ros:${ROS_DISTRO}-ros-base
ARG ONNXRUNTIME=onnxruntime-gpu[cuda,cudnn]
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# Ubuntu's Python asks for it from 24.04 on; nothing else lives in this image.
ENV PIP_BREAK_SYSTEM_PACKAGES=1 PIP_NO_CACHE_DIR=1

# Ubuntu keeps no old versions to pin.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-pip \
    && rm -rf /var/lib/apt/lists/*
# apt's cv_bridge and OpenCV are built for NumPy 1. One of the two onnxruntimes, never both.
RUN python3 -m pip install "numpy<2" "${ONNXRUNTIME}>=1.23" "tokenizers>=0.21"

WORKDIR /ros2_ws
COPY . src/molmo2_ros
RUN apt-get update \
    && rosdep update --rosdistro "${ROS_DISTRO}" \
    && rosdep install --from-paths src --ignore-src -y -t exec --skip-keys python3-onnxruntime-pip \
    && rm -rf /var/lib/apt/lists/* \
    && . "/opt/ros/${ROS_DISTRO}/setup.bash" \
    && colcon build --packages-select molmo2_ros \
    && useradd --uid 2000 --create-home robot
USER 2000
ENTRYPOINT ["/ros2_ws/src/molmo2_ros/docker/launch.sh"]
