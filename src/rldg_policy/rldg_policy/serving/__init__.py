"""The policy server without ROS: loaded policies, action chunks, inference, latency statistics."""
