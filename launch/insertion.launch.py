"""`ros2 launch rldg_bringup insertion.launch.py`: observer, gate, policy and what else a task needs.

`rldg up insertion` starts the same declaration without `launch`. Arguments: `--show-args`.
"""

from launch import LaunchDescription
from rldg_bringup.launching import launch_description
from rldg_bringup.stack import insertion_stack


def generate_launch_description() -> LaunchDescription:
    """Declare every argument of the stack and start it."""
    return launch_description("insertion.launch.py", insertion_stack)
