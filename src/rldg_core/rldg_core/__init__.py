"""Frames, types, task configuration, image codec and seeding of RLDG for ROS 2."""
