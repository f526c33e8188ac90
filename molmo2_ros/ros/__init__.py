"""The only room that imports rclpy: nodes, parameters and messages."""
