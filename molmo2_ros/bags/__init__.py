"""Recordings of ROS 2 topics, read without ROS."""
