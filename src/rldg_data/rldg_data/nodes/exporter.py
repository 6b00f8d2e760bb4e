"""`exporter`: action `export_dataset`, bags -> RLDS; the same code as `rldg export`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rclpy.action import ActionServer, CancelResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import MultiThreadedExecutor
from rclpy.node import Node

from rldg_core.errors import UserError
from rldg_data.export import export_dataset
from rldg_msgs.action import ExportDataset
from rldg_ros.runner import run_node


class _Cancelled(Exception):
    """The client cancelled; `export_dataset` cleans up on its way out."""


class ExporterNode(Node):
    """No parameters: the goal says everything. An existing dataset is never overwritten."""

    def __init__(self) -> None:
        super().__init__("exporter")
        ActionServer(
            self,
            ExportDataset,
            "export_dataset",
            self._execute,
            # Cancelling must get through while an export runs.
            callback_group=ReentrantCallbackGroup(),
            cancel_callback=lambda _: CancelResponse.ACCEPT,
        )

    def _execute(self, handle: Any) -> ExportDataset.Result:
        goal = handle.request

        def progress(done: int, total: int) -> None:
            if handle.is_cancel_requested:
                raise _Cancelled
            handle.publish_feedback(ExportDataset.Feedback(episodes_done=done, episodes_total=total))

        try:
            result = export_dataset(
                [Path(goal.bag_dir)],
                Path(goal.output_dir),
                goal.name,
                goal.version,
                only_success=goal.only_success,
                source=goal.source,
                seed=goal.seed,
                progress=progress,
            )
        except _Cancelled:
            handle.canceled()
            return ExportDataset.Result(message="cancelled, nothing was written")
        except UserError as error:
            handle.abort()
            self.get_logger().error(str(error))
            return ExportDataset.Result(message=str(error))
        handle.succeed()
        self.get_logger().info(f"wrote {result.path}: {result.episodes} episodes, {result.steps} steps")
        return ExportDataset.Result(
            success=True,
            message=f"{result.skipped} bags left out by the filters",
            path=str(result.path),
            episodes=result.episodes,
            steps=result.steps,
        )


def main() -> None:
    """Entry point."""
    sys.exit(run_node(ExporterNode, make_executor=MultiThreadedExecutor))
