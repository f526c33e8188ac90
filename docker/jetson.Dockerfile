# molmo2_ros on a Jetson. NOT RUN BY US: it is linted only, and no plan of ours has run on a Jetson.
#
# JetPack 6.2 (Orin, Ubuntu 22.04, Python 3.10, TensorRT 10.3, Humble), built on the Jetson itself:
#   docker build -f docker/jetson.Dockerfile -t molmo2_ros --build-arg ONNXRUNTIME=WHEEL .
#   docker run --rm -it --runtime nvidia --network host --ipc host -v ~/engines:/engines molmo2_ros \
#       image:=/camera/color/image_raw engine:=/engines/molmo2-4b queries:="['point: the red mug']"
#
# JetPack 7.2 (Orin and Thor, Ubuntu 24.04, Python 3.12, TensorRT 10.16, Jazzy): add
#   --build-arg BASE=IMAGE --build-arg UBUNTU=noble --build-arg ROS=jazzy
# with an image of NVIDIA's for it that holds CUDA and TensorRT with its Python module.
#
# WHEEL is the URL of an onnxruntime-gpu that is built for this JetPack: what pip finds by name for
# aarch64 has no kernel for Orin (compute capability 8.7) or Thor (11.0).
ARG BASE=nvcr.io/nvidia/l4t-jetpack:r36.4.0
# hadolint ignore=DL3006
FROM ${BASE}
ARG ROS=humble
ARG UBUNTU=jammy
ARG ROS_APT_SOURCE=1.1.0
ARG ONNXRUNTIME
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV PIP_BREAK_SYSTEM_PACKAGES=1 PIP_NO_CACHE_DIR=1 DEBIAN_FRONTEND=noninteractive ROS_DISTRO=${ROS}

# Ubuntu and ROS keep no old versions to pin.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl \
    && curl -fsSL -o /tmp/ros2-apt-source.deb "https://github.com/ros-infrastructure/ros-apt-source/releases/download/${ROS_APT_SOURCE}/ros2-apt-source_${ROS_APT_SOURCE}.${UBUNTU}_all.deb" \
    && dpkg -i /tmp/ros2-apt-source.deb \
    && apt-get update \
    && apt-get install -y --no-install-recommends python3-colcon-common-extensions python3-pip \
        python3-rosdep "ros-${ROS}-ros-base" \
    && rm -rf /var/lib/apt/lists/* /tmp/ros2-apt-source.deb \
    && rosdep init
# apt's cv_bridge and OpenCV are built for NumPy 1. cuda-bindings calls CUDA for plans of TensorRT.
# hadolint ignore=DL3013
RUN { test -n "${ONNXRUNTIME}" || { echo "say --build-arg ONNXRUNTIME=WHEEL" >&2; exit 1; }; } \
    && python3 -m pip install "numpy<2" "${ONNXRUNTIME}" "tokenizers>=0.21" "cuda-bindings>=12.8"

WORKDIR /ros2_ws
COPY . src/molmo2_ros
RUN apt-get update \
    && rosdep update --rosdistro "${ROS}" \
    && rosdep install --from-paths src --ignore-src -y -t exec --skip-keys python3-onnxruntime-pip \
    && rm -rf /var/lib/apt/lists/* \
    && . "/opt/ros/${ROS}/setup.bash" \
    && colcon build --packages-select molmo2_ros \
    && useradd --uid 2000 --create-home --groups video robot
USER 2000
ENTRYPOINT ["/ros2_ws/src/molmo2_ros/docker/launch.sh"]
