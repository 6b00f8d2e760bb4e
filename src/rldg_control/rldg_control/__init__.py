"""Observer, gate, teleoperation, gripper and episode manager."""
