"""Lifecycle node `policy`: it answers observations with actions and swaps policies between two ticks.

In lock-step, inference runs on the main thread; in real time, each policy infers on its own thread, which also
publishes the result. A lock serialises the calls of the server.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from rldg_core import from_msg
from rldg_core.errors import UserError
from rldg_msgs.msg import EpisodeEvent, PolicyAction, PolicyStatus, PolicyWeights
from rldg_msgs.msg import Observation as ObservationMsg
from rldg_msgs.msg import Step as StepMsg
from rldg_policy.nodes import messages
from rldg_policy.nodes.policy_services import PolicyServices
from rldg_policy.serving.act_http import LOOPBACK, ActServer
from rldg_policy.serving.act_request import ActService, RefusedError
from rldg_policy.serving.chunks import RULES
from rldg_policy.serving.inference import import_backend
from rldg_policy.serving.input_checks import check_message
from rldg_policy.serving.latency import TickWindow
from rldg_policy.serving.records import Action, Settings
from rldg_policy.serving.server import PolicyServer
from rldg_policy.serving.store import Served, load_policy
from rldg_ros import qos
from rldg_ros.log import Log
from rldg_ros.pace import pace_parameter
from rldg_ros.parameters import parameter, task_parameter
from rldg_ros.reporting import ERROR, OK, WARN, Report, Reporter, field_values, steady_timer
from rldg_ros.runner import autostart, run_node, transition
from rldg_ros.subscriptions import refusals, subscribe

CallbackT = TypeVar("CallbackT", bound=Callable[..., Any])

SWITCH_INTERVAL_S = 0.0005
"""Longest time that another thread holds the interpreter while a tick waits (Python's default: 5 ms)."""

POLLS_PER_PERIOD = 10
"""How often per control period a tick that waits for an inference is checked."""

CLOSE_TIMEOUT_S = 2.0
"""Time for running inferences to end when the node stops."""


def _between_ticks(callback: CallbackT) -> CallbackT:
    """Run a callback of the node with its lock held."""

    @functools.wraps(callback)
    def locked(self: PolicyNode, *arguments: Any) -> Any:
        with self._lock:
            return callback(self, *arguments)

    return cast(CallbackT, locked)


class PolicyNode(LifecycleNode):
    """Parameters: task, task_dirs, lockstep, policy, checkpoint, explore, live_weights, chunks (newest, whole or
    ensemble), ensemble_k, watchdog_s, http_port (0: off), http_host, preload, autostart."""

    def __init__(self) -> None:
        super().__init__("policy")
        self._task = task_parameter(self)
        self._settings = Settings(
            task=self._task,
            pace=pace_parameter(self).name,
            live_weights=bool(parameter(self, "live_weights", False, "Take weights from the learner.")),
            chunks=str(parameter(self, "chunks", "newest", "Rule for overlapping action chunks.", choices=RULES)),
            ensemble_k=float(
                parameter(
                    self, "ensemble_k", 0.0, "With rule ensemble: a prediction of age n ticks has the weight exp(k n)."
                )
            ),
            watchdog_s=float(
                parameter(
                    self, "watchdog_s", 2.0, "How long the arm is held without an action from the policy [s].", low=0.0
                )
            ),
        )
        self._initial = str(parameter(self, "policy", "hold", "Back-end to load and activate at the start."))
        self._checkpoint = str(parameter(self, "checkpoint", "", "Checkpoint folder of the policy; empty: none."))
        self._explore = bool(parameter(self, "explore", False, "Sample actions instead of using the mode."))
        preload = parameter(self, "preload", [""], "Back-ends to import at the start, before ticks are due.")
        self._preload = [str(b) for b in preload if b]
        host = str(parameter(self, "http_host", LOOPBACK, "Loopback address for http_port."))
        port = int(
            parameter(
                self,
                "http_port",
                0,
                "Port of the HTTP interface /act, which answers between episodes; 0: off.",
                low=0,
                high=65535,
            )
        )
        self._http_address = host, port
        self._http: ActServer | None = None
        self._lock = threading.RLock()
        self._server = PolicyServer(self._settings, self._act)
        if port and not self._server.threaded:
            raise UserError(
                "parameter http_port: lock-step: inference has no thread of its own, so /act cannot be served"
            )
        self._window = TickWindow()
        self._running = False
        self._policy_services: PolicyServices | None = None
        autostart(self)

    # -- lifecycle --------------------------------------------------------------------------------------
    @transition
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load and warm up the initial policy, and create topics and services."""
        # First, so that a policy that cannot be loaded is reported before the other back-ends are imported.
        initial = load_policy(self._initial, self._initial, self._checkpoint, self._explore, self._task)
        for backend in self._preload:
            import_backend(backend)
        self._server.add(initial, activate=True)
        self._action_pub = self.create_publisher(PolicyAction, "policy_action", qos.STREAM)
        self._status_pub = self.create_publisher(PolicyStatus, "policy_status", qos.LATCHED)
        self._entities: list[Any] = [
            subscribe(self, EpisodeEvent, "episode_event", self._on_event, qos.EVENTS),
            subscribe(self, ObservationMsg, "observation", self._on_observation, qos.STREAM),
        ]
        if self._server.needs_steps:
            self._entities.append(subscribe(self, StepMsg, "step", self._on_step, qos.LAST_STEPS))
        if self._settings.live_weights:
            weights = subscribe(self, PolicyWeights, "policy_weights", self._on_weights, qos.EVENTS)
            self._entities.append(weights)
        self._policy_services = PolicyServices(self, self._server, self._task, self._lock, self._on_change)
        host, port = self._http_address
        if port:
            self._http = ActServer(ActService(self._task, self._serving_between_episodes, self._lock), port, host)
            self._http.start()
        self._timer = steady_timer(self, 1.0, self._publish_status)
        self._watch = steady_timer(self, self._task.period_s / POLLS_PER_PERIOD, self._on_watch)
        self._watch.cancel()
        self._reporter = Reporter(self, self._report, log_changes=False)
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start to act."""
        result = super().on_activate(state)
        self._running = True
        self._publish_status()
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop acting; policies stay loaded."""
        self._running = False
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything."""
        self.close()
        for entity in self._entities:
            self.destroy_subscription(entity)
        self.destroy_timer(self._timer)
        self.destroy_timer(self._watch)
        self._reporter.close()
        self.destroy_publisher(self._action_pub)
        self.destroy_publisher(self._status_pub)
        self._server = PolicyServer(self._settings, self._act)
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """Stop services and policies."""
        if self._http:
            self._http.stop()
            self._http = None
        if self._policy_services:
            self._policy_services.close()
            self._policy_services = None
        # Without the lock, because a running inference needs it to deliver its result.
        self._server.store.close(CLOSE_TIMEOUT_S)

    def _serving_between_episodes(self) -> Served:
        if self._server.episode_runs:
            raise RefusedError(409, "an episode is running: /act answers between episodes")
        return self._server.store.served

    # -- events -----------------------------------------------------------------------------------------
    @_between_ticks
    def _on_event(self, message: EpisodeEvent) -> None:
        if message.kind == EpisodeEvent.END:
            self._server.end(message.episode_id)
            return
        if message.kind != EpisodeEvent.START:
            refusals(self).add("episode_event", f"kind {message.kind}, expected START or END")
            return
        self._server.start(messages.episode(message))
        self._act()

    @_between_ticks
    def _on_observation(self, message: ObservationMsg) -> None:
        received_s = time.monotonic()
        try:
            observation = from_msg.observation(message)
            check_message(observation, self._task)
            self._server.observe(observation, received_s)
        except ValueError as error:
            self._server.reject(f"observation: {error}")
        self._act()
        if self._server.pending:
            self._watch.reset()

    @_between_ticks
    def _on_watch(self) -> None:
        self._act()
        if not self._server.pending:
            self._watch.cancel()

    @_between_ticks
    def _on_step(self, message: StepMsg) -> None:
        continues = not (message.terminated or message.truncated or message.is_last)
        self._server.step(from_msg.stamp_ns(message.header.stamp), continues)
        self._act()

    @_between_ticks
    def _on_weights(self, message: PolicyWeights) -> None:
        try:
            self._server.receive_weights(messages.weights(message))
        except UserError as error:
            Log(self).error(str(error))
            self._publish_status()
        self._act()

    @_between_ticks
    def _act(self) -> None:
        """Publish all available actions. In real time the policies' threads call it as well."""
        while self._running and (
            action := self._server.next_action(self.get_clock().now().nanoseconds, time.monotonic())
        ):
            self._publish(action)
        for notice in self._server.take_notices():
            Log(self).warning(notice)

    def _publish(self, action: Action) -> None:
        now_s = time.monotonic()
        self._action_pub.publish(messages.action(action, now_s - action.received_s))
        self._window.note(action.received_s, now_s)

    # -- reports ----------------------------------------------------------------------------------------
    def _on_change(self) -> None:
        self._publish_status()
        self._act()

    @_between_ticks
    def _publish_status(self) -> None:
        stamp_ns = self.get_clock().now().nanoseconds
        self._status_pub.publish(messages.status(self._server, self._window, stamp_ns))

    @_between_ticks
    def _report(self) -> Report:
        values = field_values(messages.status(self._server, self._window, 0))
        active = self._server.store.active
        if not self._running or active is None:
            return Report(OK, "inactive", values)
        if fault := self._server.fault:
            return Report(ERROR, fault, values)
        if self._server.store.served.slow:
            return Report(WARN, f"policy {active.policy_id!r} is too slow", values)
        return Report(OK, f"policy {active.policy_id!r} is active", values)


def main() -> None:
    """Console script `policy`."""
    # Before torch is imported: one thread, to leave a core for the simulator.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    sys.exit(run_node(PolicyNode, on_stop=PolicyNode.close))
