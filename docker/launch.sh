#!/usr/bin/env bash
# Starts the grounding node inside the containers; arguments are those of grounding.launch.xml.
set -eo pipefail  # not -u: ROS's setup files read unset variables
source "/opt/ros/${ROS_DISTRO}/setup.bash"
source /ros2_ws/install/setup.bash
exec ros2 launch molmo2_ros grounding.launch.xml "$@"
