"""rclpy glue shared by the nodes of RLDG for ROS 2: QoS, message conversion, node runner."""
