"""Services of the policy node: load, activate, unload, list.

A second node on its own thread (`policy_loader`) serves `policy/load`, so that importing, reading and warming up do not
delay a tick; a lock makes swaps happen between two ticks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from rldg_core.errors import UserError
from rldg_core.registry import backends
from rldg_core.task import Task
from rldg_msgs.srv import ActivatePolicy, ListPolicies, LoadPolicy, UnloadPolicy
from rldg_policy.nodes import messages
from rldg_policy.serving.server import PolicyServer
from rldg_policy.serving.store import load_policy
from rldg_ros.log import Log

NO_POLICY = "policy_id: must not be empty"
"""Clients call without an id to test the connection: nothing is logged or counted."""


class PolicyServices:
    """Services of the policy node. changed: called with the lock held after a policy was loaded or swapped."""

    def __init__(
        self, node: Node, server: PolicyServer, task: Task, lock: threading.RLock, changed: Callable[[], None]
    ) -> None:
        self._node, self._server, self._task, self._lock, self._changed = node, server, task, lock, changed
        self._services = [
            node.create_service(ActivatePolicy, "policy/activate", self._on_activate),
            node.create_service(UnloadPolicy, "policy/unload", self._on_unload),
            node.create_service(ListPolicies, "policy/list", self._on_list),
        ]
        self._loader = Node("policy_loader", namespace=node.get_namespace(), use_global_arguments=False)
        self._loader.create_service(LoadPolicy, "policy/load", self._on_load)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._loader)
        self._thread = threading.Thread(target=self._spin, name="load", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the services; a load in progress ends with the process."""
        for service in self._services:
            self._node.destroy_service(service)
        self._executor.shutdown(timeout_sec=1.0)
        self._loader.destroy_node()

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            return

    def _on_load(self, request: LoadPolicy.Request, response: LoadPolicy.Response) -> LoadPolicy.Response:
        """Load a policy, on the loader's thread."""
        if not request.policy_id:
            response.message = NO_POLICY
            return response
        try:
            loaded = load_policy(request.policy_id, request.backend, request.path, request.explore, self._task)
        except UserError as error:
            with self._lock:
                self._refuse(error, response)
            return response
        with self._lock:
            self._server.add(loaded, bool(request.activate))
            response.success, response.info = True, messages.info(loaded, self._server)
            self._changed()
        return response

    def _on_activate(
        self, request: ActivatePolicy.Request, response: ActivatePolicy.Response
    ) -> ActivatePolicy.Response:
        if not request.policy_id:
            response.message = NO_POLICY
            return response
        with self._lock:
            try:
                self._server.activate(request.policy_id)
            except UserError as error:
                self._refuse(error, response)
            else:
                response.success = True
                self._changed()
        return response

    def _on_unload(self, request: UnloadPolicy.Request, response: UnloadPolicy.Response) -> UnloadPolicy.Response:
        if not request.policy_id:
            response.message = NO_POLICY
            return response
        with self._lock:
            try:
                self._server.store.unload(request.policy_id)
                response.success = True
            except UserError as error:
                response.message = str(error)
        return response

    def _on_list(self, request: ListPolicies.Request, response: ListPolicies.Response) -> ListPolicies.Response:
        with self._lock:
            response.policies = [messages.info(loaded, self._server) for loaded in self._server.store.all()]
        response.backends = backends()
        return response

    def _refuse(self, error: UserError, response: Any) -> None:
        self._server.last_error = response.message = str(error)
        Log(self._node).error(str(error))
        self._changed()
