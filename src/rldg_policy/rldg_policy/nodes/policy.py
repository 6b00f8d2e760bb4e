"""Node `policy` (lifecycle): observations in, actions out, policies swapped between two ticks.

The main thread ticks. `policy/load` is served by a second node on a thread of its own (`policy_loader`), so that
importing, reading and warming never cost a tick; a lock makes a swap fall between two ticks.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node

from rldg_core import from_msg
from rldg_core.errors import UserError
from rldg_core.registry import backends, factory
from rldg_msgs.msg import EpisodeEvent, PolicyAction, PolicyStatus, PolicyWeights
from rldg_msgs.msg import Observation as ObservationMsg
from rldg_msgs.msg import Step as StepMsg
from rldg_msgs.srv import ActivatePolicy, ListPolicies, LoadPolicy, UnloadPolicy
from rldg_policy.serving.latency import TickWindow
from rldg_policy.nodes import messages
from rldg_policy.serving.server import Action, PolicyServer, Settings
from rldg_policy.serving.store import load_policy
from rldg_ros import qos
from rldg_ros.parameters import parameter, task_parameter
from rldg_ros.runner import autostart, run_node, transition

CallbackT = TypeVar("CallbackT", bound=Callable[..., Any])

SWITCH_INTERVAL_S = 0.0005
"""How long a loading thread may hold the interpreter before a tick gets its turn (Python's default: 5 ms)."""


def _between_ticks(callback: CallbackT) -> CallbackT:
    """Run a callback of the node while no other one changes the server."""

    @functools.wraps(callback)
    def locked(self: PolicyNode, *arguments: Any) -> Any:
        with self._lock:
            return callback(self, *arguments)

    return cast(CallbackT, locked)


class PolicyNode(LifecycleNode):
    """Parameters: task, task_dirs, lockstep, policy, checkpoint, explore, live_weights, replan, preload, autostart."""

    def __init__(self) -> None:
        super().__init__("policy")
        self._task = task_parameter(self)
        self._settings = Settings(
            task=self._task,
            lockstep=bool(parameter(self, "lockstep", False)),
            live_weights=bool(parameter(self, "live_weights", False)),
            replan=bool(parameter(self, "replan", True)),
        )
        self._initial = str(parameter(self, "policy", "hold"))
        self._checkpoint = str(parameter(self, "checkpoint", ""))
        self._explore = bool(parameter(self, "explore", False))
        self._preload = [str(b) for b in parameter(self, "preload", [""]) if b]
        self._server = PolicyServer(self._settings)
        self._window = TickWindow()
        self._running = False
        self._lock = threading.RLock()
        self._loader: Node | None = None
        autostart(self)

    # -- lifecycle --------------------------------------------------------------------------------------
    @transition
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the initial policy (here, so that the first tick finds it warm) and open topics and services."""
        for backend in self._preload:
            factory(backend)
        initial = load_policy(self._initial, self._initial, self._checkpoint, self._explore, self._task)
        self._server.add(initial, activate=True)
        self._action_pub = self.create_publisher(PolicyAction, "policy_action", qos.STREAM)
        self._status_pub = self.create_publisher(PolicyStatus, "policy_status", qos.LATCHED)
        self._entities: list[Any] = [
            self.create_subscription(EpisodeEvent, "episode_event", self._on_event, qos.EVENTS),
            self.create_subscription(ObservationMsg, "observation", self._on_observation, qos.STREAM),
        ]
        if self._settings.lockstep:
            self._entities.append(self.create_subscription(StepMsg, "step", self._on_step, qos.LAST_STEPS))
        if self._settings.live_weights:
            weights = self.create_subscription(PolicyWeights, "policy_weights", self._on_weights, qos.EVENTS)
            self._entities.append(weights)
        self._own_services = [
            self.create_service(ActivatePolicy, "policy/activate", self._on_activate),
            self.create_service(UnloadPolicy, "policy/unload", self._on_unload),
            self.create_service(ListPolicies, "policy/list", self._on_list),
        ]
        self._start_loader()
        # Wall clock: the status goes on while a lock-step simulation waits.
        self._timer = self.create_timer(1.0, self._publish_status, clock=Clock(clock_type=ClockType.STEADY_TIME))
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to act."""
        result = super().on_activate(state)
        self._running = True
        self._publish_status()
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop acting; policies stay loaded."""
        self._running = False
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget everything."""
        for entity in self._entities:
            self.destroy_subscription(entity)
        for service in self._own_services:
            self.destroy_service(service)
        self.destroy_timer(self._timer)
        self.destroy_publisher(self._action_pub)
        self.destroy_publisher(self._status_pub)
        self._server.store.close()
        self._server = PolicyServer(self._settings)
        return TransitionCallbackReturn.SUCCESS

    # -- events -----------------------------------------------------------------------------------------
    @_between_ticks
    def _on_event(self, message: EpisodeEvent) -> None:
        if message.kind == EpisodeEvent.END:
            self._server.end(message.episode_id)
            return
        self._server.start(messages.episode(message))
        self._act()

    @_between_ticks
    def _on_observation(self, message: ObservationMsg) -> None:
        received_s = time.monotonic()
        try:
            self._server.observe(from_msg.observation(message), received_s)
        except ValueError as error:
            self._server.reject(f"observation: {error}")
        self._act()

    @_between_ticks
    def _on_step(self, message: StepMsg) -> None:
        goes_on = not (message.terminated or message.truncated or message.is_last)
        self._server.step(from_msg.stamp_ns(message.header.stamp), goes_on)
        self._act()

    @_between_ticks
    def _on_weights(self, message: PolicyWeights) -> None:
        try:
            self._server.receive_weights(messages.weights(message))
        except UserError as error:
            self.get_logger().error(str(error))
            self._publish_status()
        self._act()

    def _act(self) -> None:
        while self._running and (action := self._server.next_action(self.get_clock().now().nanoseconds)):
            self._publish(action)

    def _publish(self, action: Action) -> None:
        now_s = time.monotonic()
        self._action_pub.publish(messages.action(action, now_s - action.received_s))
        self._window.add(action.received_s, now_s)

    # -- services ---------------------------------------------------------------------------------------
    def _start_loader(self) -> None:
        if self._loader is None:
            self._loader = Node("policy_loader", namespace=self.get_namespace(), use_global_arguments=False)
            self._loader.create_service(LoadPolicy, "policy/load", self._on_load)
            self._loader_executor = SingleThreadedExecutor()
            self._loader_executor.add_node(self._loader)
            self._loader_thread = threading.Thread(target=self._spin_loader, name="load", daemon=True)
            self._loader_thread.start()

    def _spin_loader(self) -> None:
        try:
            self._loader_executor.spin()
        except ExternalShutdownException:
            return

    def _on_load(self, request: LoadPolicy.Request, response: LoadPolicy.Response) -> LoadPolicy.Response:
        """On the loader's thread."""
        try:
            loaded = load_policy(request.policy_id, request.backend, request.path, request.explore, self._task)
        except UserError as error:
            with self._lock:
                self._refused(error)
            response.message = str(error)
        else:
            with self._lock:
                self._server.add(loaded, bool(request.activate))
                response.success, response.info = True, messages.info(loaded, self._server)
                self._act()
        self._publish_status()
        return response

    @_between_ticks
    def _on_activate(
        self, request: ActivatePolicy.Request, response: ActivatePolicy.Response
    ) -> ActivatePolicy.Response:
        try:
            self._server.activate(request.policy_id)
            response.success = True
        except UserError as error:
            self._refused(error)
            response.message = str(error)
        self._publish_status()
        self._act()
        return response

    @_between_ticks
    def _on_unload(self, request: UnloadPolicy.Request, response: UnloadPolicy.Response) -> UnloadPolicy.Response:
        try:
            self._server.store.unload(request.policy_id)
            response.success = True
        except UserError as error:
            response.message = str(error)
        return response

    @_between_ticks
    def _on_list(self, request: ListPolicies.Request, response: ListPolicies.Response) -> ListPolicies.Response:
        response.policies = [messages.info(loaded, self._server) for loaded in self._server.store.all()]
        response.backends = backends()
        return response

    def _refused(self, error: UserError) -> None:
        self._server.last_error = str(error)
        self.get_logger().error(str(error))

    # -- reports ----------------------------------------------------------------------------------------
    @_between_ticks
    def _publish_status(self) -> None:
        stamp_ns = self.get_clock().now().nanoseconds
        self._status_pub.publish(messages.status(self._server, self._window, stamp_ns))

    def close(self) -> None:
        """End the loader's thread; a load in progress ends with the process."""
        if self._loader is not None:
            self._loader_executor.shutdown(timeout_sec=1.0)
            self._loader.destroy_node()


def main() -> None:
    """Console script `policy`."""
    # Before torch is imported: one thread, the other core belongs to the simulator.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    sys.exit(run_node(PolicyNode, on_stop=PolicyNode.close))
