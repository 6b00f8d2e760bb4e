"""`ros2 launch rldg_bringup robot.launch.py robot_ip:=...`: the arm's drivers and its controller alone.

They outlive `insertion.launch.py robot:=fr3_ros drivers:=false`, which may be ended and started again beside them.
"""

from launch import LaunchDescription
from rldg_bringup.launching import launch_description
from rldg_bringup.stack import robot_stack


def generate_launch_description() -> LaunchDescription:
    """Declare every argument of the stack and start the robot's part."""
    return launch_description("robot.launch.py", robot_stack)
