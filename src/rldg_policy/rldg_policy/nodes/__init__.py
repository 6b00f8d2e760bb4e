"""ROS nodes: parameters, topics, services, timers."""
