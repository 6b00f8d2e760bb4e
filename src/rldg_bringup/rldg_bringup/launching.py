"""A declared stack as launch_ros actions: what the files in `launch/` share. Needs `launch` and `launch_ros`."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ament_index_python.packages import get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessExit
from launch.events.process import ProcessExited
from launch.launch_description_sources import AnyLaunchDescriptionSource
from launch.logging import launch_config
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity

try:
    from rldg_bringup.arguments import StackArguments, arguments_from_text, check_argument_names
    from rldg_bringup.declaration import IncludeSpec, NodeSpec, Stack
    from rldg_core.errors import UserError
    from rldg_core.leftovers import ScratchFolder, remove_leftovers, stack_key
    from rldg_core.network import domain_id
    from rldg_ros.runner import LAUNCHER_PID
except ModuleNotFoundError as error:
    # `ros2` runs the system's Python, which finds what .venv holds through scripts/env.sh alone.
    raise ModuleNotFoundError(
        f"{error}: source scripts/env.sh of the checkout; install/setup.bash is not enough"
    ) from None

SIGTERM_TIMEOUT_S = 10.0
SIGKILL_TIMEOUT_S = 5.0
"""A node that answers SIGINT ends in 1 to 3 s on an idle machine; one that is killed because the machine is busy would
lose data."""

LAUNCH_OWN = ("launch-prefix", "launch-prefix-filter")
"""Arguments of `ros2 launch` itself."""

SIMILAR = 0.85
"""From this similarity on, an argument of an outer launch file is a misspelt one of ours."""


def launch_description(file_name: str, declare: Callable[[StackArguments, Path], Stack]) -> LaunchDescription:
    """Declare every field of StackArguments as a launch argument and start the stack that `declare` returns."""
    declared = [
        DeclareLaunchArgument(
            f.name,
            default_value=_text(f.default),
            description=f.metadata["help"],
        )
        for f in fields(StackArguments)
    ]

    def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
        _refuse_misspelt(context, file_name)
        values = {f.name: LaunchConfiguration(f.name).perform(context) for f in fields(StackArguments)}
        arguments = arguments_from_text(values)
        stack = declare(arguments, Path(get_package_share_directory("rldg_bringup")))
        remove_leftovers()
        if stack.namespace:
            # Until this process ends, clients see that the stack starts.
            scratch = ScratchFolder(stack_key(domain_id(), stack.namespace))
            atexit.register(scratch.cleanup)
        nodes = [action for node in stack.nodes for action in _node(node, arguments)]
        return [*(LogInfo(msg=notice) for notice in stack.notices), *map(_include, stack.includes), *nodes]

    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def _text(default: Any) -> str:
    """A default as a launch argument; "" for None, which means that something else decides."""
    return "" if default is None else str(default).lower() if isinstance(default, bool) else str(default)


def _refuse_misspelt(context: LaunchContext, file_name: str) -> None:
    """Raise UserError for an undeclared argument: `launch` itself would take it without a word.

    An outer launch file has arguments of its own, which are seen from here, too: of those, only names that are
    nearly one of ours are refused.
    """
    known = [f.name for f in fields(StackArguments)]
    given = [text.partition(":=")[0] for text in context.argv if ":=" in text]
    if any(Path(text).name == file_name for text in sys.argv):
        check_argument_names(name for name in given if name not in LAUNCH_OWN)
    for name in context.launch_configurations:
        if name not in known and get_close_matches(name, known, 1, SIMILAR):
            check_argument_names([name])


def _include(spec: IncludeSpec) -> IncludeLaunchDescription:
    path = Path(get_package_share_directory(spec.package)) / "launch" / spec.launch_file
    arguments = dict(spec.arguments)
    for name, text in spec.files.items():
        file = Path(launch_config.log_dir) / f"{name}.yaml"
        file.write_text(text)
        arguments[name] = str(file)
    return IncludeLaunchDescription(AnyLaunchDescriptionSource(str(path)), launch_arguments=arguments.items())


def _node(spec: NodeSpec, arguments: StackArguments) -> list[LaunchDescriptionEntity]:
    node = Node(
        package=spec.package,
        executable=spec.executable,
        name=spec.name,
        namespace=spec.namespace,
        # Empty string arrays have no type in launch_ros; our declarations hold none.
        parameters=[
            {name: _value(value) for name, value in spec.parameters.items()},
            *([arguments.params_file] if arguments.params_file else []),
        ],
        arguments=[*spec.arguments],
        ros_arguments=["--log-level", arguments.log_level],
        output="screen",
        # Our nodes watch this process (rldg_ros.runner): on SIGTERM, `ros2 launch` leaves its children running.
        additional_env={LAUNCHER_PID: str(os.getpid())},
        sigterm_timeout=str(SIGTERM_TIMEOUT_S),
        sigkill_timeout=str(SIGKILL_TIMEOUT_S),
        **_end_with_launch(spec),
    )
    if spec.one_shot:
        return [node]

    def on_exit(event: ProcessExited, context: LaunchContext) -> None:
        # An exception ends `ros2 launch` in order and with code 1; a Shutdown event would end it with code 0.
        if not context.is_shutdown:
            raise UserError(f"node {spec.name} ended with code {event.returncode}: see its last line")

    return [node, RegisterEventHandler(OnProcessExit(target_action=node, on_exit=on_exit))]


def _value(value: Any) -> Any:
    """A parameter as launch_ros takes it: without its type, a text of digits would become a number."""
    return ParameterValue(value, value_type=str) if isinstance(value, str) else value


def _end_with_launch(spec: NodeSpec) -> dict[str, str]:
    """For the drivers of others, which do not watch their launcher: SIGINT from the kernel when it ends."""
    if spec.package.startswith("rldg_") or not shutil.which("setpriv"):
        return {}
    return {"prefix": "setpriv --pdeathsig INT"}
