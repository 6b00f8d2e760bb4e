"""Logging of text that may come from outside: one printable line of bounded length."""

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
        """Log at severity INFO."""
        self._logger.info(one_line(text))

    def warning(self, text: object) -> None:
        """Log at severity WARN."""
        self._logger.warning(one_line(text))

    def error(self, text: object) -> None:
        """Log at severity ERROR."""
        self._logger.error(one_line(text))
