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
from rldg_data.recipe.planning import make_plan
from rldg_data.recipe.recipe import quick_recipe
from rldg_data.rlds.export import export_plan
from rldg_msgs.action import ExportDataset
from rldg_ros.reporting import OK, Report, Reporter
from rldg_ros.runner import run_node


class _Cancelled(Exception):
    """The client cancelled; `export_plan` leaves nothing under the dataset's name."""


class ExporterNode(Node):
    """No parameters: the goal says everything. An existing dataset is never overwritten."""

    def __init__(self) -> None:
        super().__init__("exporter")
        self._running: dict[str, tuple[int, int]] = {}
        ActionServer(
            self,
            ExportDataset,
            "export_dataset",
            self._execute,
            # Cancelling must get through while an export runs.
            callback_group=ReentrantCallbackGroup(),
            cancel_callback=lambda _: CancelResponse.ACCEPT,
        )
        Reporter(self, self._report, log_changes=False)

    def _report(self) -> Report:
        """Name the exports that run. Called while they do, on another thread."""
        running = dict(self._running)
        values = {name: f"{done} of {total} episodes" for name, (done, total) in running.items()}
        return Report(OK, f"exporting {', '.join(running)}" if running else "idle", values)

    def _execute(self, handle: Any) -> ExportDataset.Result:
        goal = handle.request
        path = str(Path(goal.output_dir) / goal.name / goal.version)

        def progress(done: int, total: int) -> None:
            if handle.is_cancel_requested:
                raise _Cancelled
            self._running[path] = done, total
            handle.publish_feedback(ExportDataset.Feedback(episodes_done=done, episodes_total=total))

        try:
            recipe = quick_recipe(
                [Path(goal.bag_dir)],
                goal.name,
                goal.version,
                only_success=goal.only_success,
                source=goal.source,
                seed=goal.seed,
            )
            result = export_plan(make_plan(recipe, Path.cwd()), Path(goal.output_dir), progress=progress)
        except _Cancelled:
            handle.canceled()
            return ExportDataset.Result(message="cancelled, no dataset was written")
        except UserError as error:
            handle.abort()
            self.get_logger().error(str(error))
            return ExportDataset.Result(message=str(error))
        finally:
            self._running.pop(path, None)
        handle.succeed()
        episodes = sum(result.episodes.values())
        self.get_logger().info(f"wrote {result.path}: {episodes} episodes, {result.steps} steps")
        return ExportDataset.Result(
            success=True,
            message=f"{sum(result.left_out.values())} bags left out by the filters",
            path=str(result.path),
            episodes=episodes,
            steps=result.steps,
        )


def main() -> None:
    """Entry point."""
    sys.exit(run_node(ExporterNode, make_executor=MultiThreadedExecutor))
