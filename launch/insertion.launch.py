"""`ros2 launch rldg_bringup insertion.launch.py`: the stack of rldg_bringup.stack as launch_ros actions.

`rldg up insertion` starts the same declaration without `launch`. Arguments: `--show-args`.
"""

from dataclasses import fields
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.launch_description_sources import AnyLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from rldg_bringup.stack import IncludeSpec, NodeSpec, StackArguments, arguments_from_text, insertion_stack


def generate_launch_description() -> LaunchDescription:
    """Declare every field of StackArguments as a launch argument and start the stack."""
    declared = [
        DeclareLaunchArgument(
            f.name,
            default_value=str(f.default).lower() if isinstance(f.default, bool) else str(f.default),
            description=f.metadata["help"],
        )
        for f in fields(StackArguments)
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=_actions)])


def _actions(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    values = {f.name: LaunchConfiguration(f.name).perform(context) for f in fields(StackArguments)}
    arguments = arguments_from_text(values)
    stack = insertion_stack(arguments, Path(get_package_share_directory("rldg_bringup")))
    return [*map(_include, stack.includes), *(a for n in stack.nodes for a in _node(n, arguments))]


def _include(spec: IncludeSpec) -> IncludeLaunchDescription:
    path = Path(get_package_share_directory(spec.package)) / "launch" / spec.launch_file
    return IncludeLaunchDescription(AnyLaunchDescriptionSource(str(path)), launch_arguments=spec.arguments.items())


def _node(spec: NodeSpec, arguments: StackArguments) -> list[LaunchDescriptionEntity]:
    # Empty string arrays have no type in launch_ros; our declarations hold none.
    node = Node(
        package=spec.package,
        executable=spec.executable,
        name=spec.name,
        namespace=spec.namespace,
        parameters=[dict(spec.parameters), *([arguments.params_file] if arguments.params_file else [])],
        arguments=[*spec.arguments],
        ros_arguments=["--log-level", arguments.log_level],
        output="screen",
        # A node that does not answer SIGINT in time is ended, so that Ctrl-C takes under 3 s in all.
        sigterm_timeout="2.0",
        sigkill_timeout="0.5",
    )
    if spec.one_shot:
        return [node]
    ended = OnProcessExit(target_action=node, on_exit=[EmitEvent(event=Shutdown(reason=f"node {spec.name} ended"))])
    return [node, RegisterEventHandler(ended)]
