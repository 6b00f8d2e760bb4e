"""The one way in which nodes log what others sent: one printable line of bounded length."""

from __future__ import annotations

from rclpy.node import Node

from rldg_core.errors import one_line


class Log:
    """The logger of a node; each text becomes one line (`rldg_core.errors.one_line`).

    One method per severity: rclpy ties a severity to the line of the call.
    """

    def __init__(self, node: Node) -> None:
        self._logger = node.get_logger()

    def info(self, text: object) -> None:
        """Log what is as it should be."""
        self._logger.info(one_line(text))

    def warning(self, text: object) -> None:
        """Log what a person should look at."""
        self._logger.warning(one_line(text))

    def error(self, text: object) -> None:
        """Log what failed."""
        self._logger.error(one_line(text))
