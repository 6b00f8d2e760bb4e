"""The policy server: loaded policies, chunks of actions, inference, figures; free of ROS."""
