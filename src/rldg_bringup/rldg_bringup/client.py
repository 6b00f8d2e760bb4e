"""Typed client of the services and actions of a running stack, for the command line and the demo."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future

from rldg_bringup.outcome import Episodes
from rldg_core.errors import StalledError, UserError
from rldg_core.leftovers import stack_key, stack_started_s
from rldg_core.network import prepare_network
from rldg_msgs.action import RunEpisodes
from rldg_msgs.msg import GateStatus, LearnerStatus, PolicyStatus
from rldg_msgs.srv import ActivatePolicy, Hold, LabelEpisode, ListPolicies, LoadPolicy, UnloadPolicy
from rldg_ros import qos
from rldg_ros.vendors import ChangeFilter, PolledSubscriptions, vendor_topic

RUNNING_TIMEOUT_S = 8.0
"""Limit for an answer of a stack that should be running already. A stack that is starting has READY_TIMEOUT_S."""

READY_TIMEOUT_S = 60.0
"""Limit for a stack to start. Nine Python processes take up to about 20 s on two busy cores."""

LOAD_TIMEOUT_S = 120.0
"""Limit for loading a policy. The first inference of a compiled policy takes 10 to 36 s."""

ASK_AGAIN_S = 1.0
"""Period after which a request is repeated. A server that this client has discovered may not have discovered the
reader of this client yet; its answer is then lost (rmw_fastrtps: "failed to send response (timeout): client will not
receive response"). Requests that may be repeated are sent until one is answered."""

HEARTBEAT_S = 10.0
"""Limit for a node without diagnostics; nodes report every second. A killed node stays in the graph for the DDS lease
of 20 s."""

LOADING_HEARTBEAT_S = 45.0
"""The same limit for the policy node while it compiles a policy, which may block its other threads."""

GRAPH_POLL_S = 0.25
"""Period at which the graph is checked while waiting."""

CANCEL_TIMEOUT_S = 2.0
"""Limit for the answer to a cancel request; a stack that has died does not answer."""

STALL_TIMEOUT_S = 120.0
"""Limit for one episode. Longer than any: compilation, and 100 steps that each wait for a learner on a busy machine."""


class StackClient:
    """Client of the stack in `/<namespace>/rldg`. Use `connected`."""

    def __init__(
        self, namespace: str, check: Callable[[], None] | None = None, ready_timeout_s: float = READY_TIMEOUT_S
    ) -> None:
        """check: called while waiting; raises UserError when the stack has died.

        Without `check` another process has started the stack: the node that has to answer must then stay in the graph
        and publish diagnostics.
        """
        self._check = check
        self._ready_timeout_s = ready_timeout_s
        root = f"/{namespace.strip('/')}" if namespace.strip("/") else ""
        self.node = rclpy.create_node("rldg_client", namespace=f"{root}/rldg", start_parameter_services=False)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._episodes = ActionClient(self.node, RunEpisodes, "run_episodes")
        self.policy_status: PolicyStatus | None = None
        self.learner_status: LearnerStatus | None = None
        self.gate_status: GateStatus | None = None
        self._silent_s: dict[str, float] = {}
        self._graph_checked_s = 0.0
        self.listen_to_status(PolicyStatus, "policy_status", self._on_policy)
        self.listen_to_status(LearnerStatus, "learner_status", self._on_learner)
        self.listen_to_status(GateStatus, "gate_status", self._on_gate)
        if check is None:
            self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def _on_policy(self, message: PolicyStatus) -> None:
        self.policy_status = message
        self._silent_s["policy"] = 0.0

    def _on_learner(self, message: LearnerStatus) -> None:
        self.learner_status = message

    def _on_gate(self, message: GateStatus) -> None:
        self.gate_status = message

    def listen_to_status(self, kind: type[Any], topic: str, on_status: Callable[[Any], None]) -> None:
        """Subscribe to a transient-local topic of the stack."""
        self.node.create_subscription(kind, topic, on_status, qos.LATCHED)

    def listen_to_driver(
        self, kind: type[Any], topic: str, on_change: Callable[[Any], None], on_same: Callable[[], None]
    ) -> None:
        """Subscribe to a vendor topic, relative to the namespace of the stack; repeated messages are not decoded."""
        PolledSubscriptions(self.node).add(kind, vendor_topic(self.node, topic), ChangeFilter(kind, on_change, on_same))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        prefix = f"{self.node.get_namespace()}/"
        for status in message.status:
            if status.name.startswith(prefix):
                self._silent_s[status.name.removeprefix(prefix)] = 0.0

    def spin(self, duration_s: float) -> None:
        """Handle messages for `duration_s`."""
        deadline = time.monotonic() + duration_s
        while (left := deadline - time.monotonic()) > 0:
            self._spin_once(left)

    def _spin_once(self, timeout_s: float) -> None:
        started_s = time.monotonic()
        self._executor.spin_once(timeout_sec=timeout_s)
        # A pause of this process must not count as silence of a node.
        listened_s = min(time.monotonic() - started_s, 2 * GRAPH_POLL_S)
        for name in self._silent_s:
            self._silent_s[name] += listened_s

    def close(self) -> None:
        """Destroy the node."""
        self._executor.shutdown()
        self.node.destroy_node()

    def wait(
        self,
        condition: Callable[[], bool],
        timeout_s: float,
        what: str,
        server: str = "",
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        """Spin until `condition` holds. Raises UserError naming `what` after `timeout_s`, or when the stack dies.

        A stack that another process started less than READY_TIMEOUT_S ago has until then.

        server: the node that has to answer; it must be in the graph already. In a stack that another process has
        started, UserError is raised when this node ends or publishes no diagnostics for `heartbeat_s`.
        """
        started_s = time.monotonic()
        if server:
            self._silent_s[server] = 0.0
        while not condition():
            now_s = time.monotonic()
            if self._check:
                self._check()
            elif server and now_s - self._graph_checked_s > GRAPH_POLL_S:
                self._graph_checked_s = now_s
                self._check_server(server, what, heartbeat_s)
            if now_s - started_s > timeout_s and not self._starts():
                raise UserError(f"{what}: no answer within {now_s - started_s:.0f} s; is the stack running?")
            self._spin_once(0.1)

    def _starts(self) -> bool:
        """Return whether a living process on this machine started the stack less than READY_TIMEOUT_S ago.

        The graph does not tell: it lists killed nodes for the DDS lease of 20 s.
        """
        if self._check:
            return False
        key = stack_key(self.node.context.get_domain_id(), self.node.get_namespace())
        started_s = stack_started_s(key)
        return started_s is not None and time.time() - started_s < READY_TIMEOUT_S

    def _check_server(self, server: str, what: str, heartbeat_s: float) -> None:
        namespace = self.node.get_namespace()
        if (server, namespace) not in self.node.get_node_names_and_namespaces():
            raise UserError(f"{what}: node {namespace}/{server} has ended: the stack was stopped or has died")
        if self._silent_s[server] > heartbeat_s:
            raise UserError(f"{what}: node {namespace}/{server} was silent for {heartbeat_s:.0f} s: killed or hanging")

    def ask(
        self,
        send: Callable[[], Future[Any]],
        timeout_s: float,
        what: str,
        server: str = "",
        heartbeat_s: float = HEARTBEAT_S,
    ) -> Any:
        """Send a request repeatedly until one is answered; return the answer.

        After an answer, all requests and answers between this client and its server arrive.
        """
        sent: list[Future[Any]] = []
        sent_s = float("-inf")

        def answered() -> bool:
            nonlocal sent_s
            if time.monotonic() - sent_s > ASK_AGAIN_S:
                sent_s = time.monotonic()
                sent.append(send())
            return any(future.done() for future in sent)

        self.wait(answered, timeout_s, what, server, heartbeat_s)
        return next(future.result() for future in sent if future.done())

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until the episode manager answers and the policy node has reported."""
        self._wait_for_episode_server(timeout_s)
        self.wait(lambda: self.policy_status is not None, timeout_s, "policy node (policy_status)")

    def _wait_for_episode_server(self, timeout_s: float) -> None:
        """Wait until the episode manager answers a goal of no episodes, which it always rejects."""
        what = "episode manager (run_episodes)"
        self.wait(self._episodes.server_is_ready, timeout_s, what)
        self.wait_for_node("episode", timeout_s, what)
        self.ask(lambda: self._episodes.send_goal_async(RunEpisodes.Goal()), timeout_s, what, "episode")

    def wait_for_node(self, server: str, timeout_s: float, what: str) -> None:
        """Wait until the graph lists the node; its endpoints may be discovered earlier."""
        known = (server, self.node.get_namespace())
        self.wait(lambda: known in self.node.get_node_names_and_namespaces(), timeout_s, what)

    def open_service(self, service_type: Any, name: str, probe: Any = None) -> Any:
        """Return a client of a service whose answers arrive. The caller destroys the client.

        probe: a request that the server refuses without any effect; None if the caller uses `ask`.
        """
        client, what, server = self.node.create_client(service_type, name), f"service {name}", name.partition("/")[0]
        try:
            self.wait(client.service_is_ready, self._ready_timeout_s, what)
            self.wait_for_node(server, self._ready_timeout_s, what)
            if probe is not None:
                self.ask(lambda: client.call_async(probe), LOAD_TIMEOUT_S, what, server, LOADING_HEARTBEAT_S)
        except BaseException:
            self.node.destroy_client(client)
            raise
        return client

    def _call(self, service_type: Any, name: str, request: Any, timeout_s: float, probe: Any = None) -> Any:
        """Call a service. probe: as for `open_service`; None if the request itself may be repeated."""
        what, server = f"service {name}", name.partition("/")[0]
        heartbeat_s = LOADING_HEARTBEAT_S if server == "policy" else HEARTBEAT_S
        client = self.open_service(service_type, name, probe)
        try:
            if probe is None:
                return self.ask(lambda: client.call_async(request), timeout_s, what, server, heartbeat_s)
            future = client.call_async(request)
            self.wait(future.done, timeout_s, what, server, heartbeat_s)
            return future.result()
        finally:
            self.node.destroy_client(client)

    def load_policy(
        self, policy_id: str, backend: str, path: str = "", *, explore: bool = False, activate: bool = False
    ) -> None:
        """Load and warm up a policy beside the active one. Raises UserError with the node's reason."""
        request = LoadPolicy.Request(
            policy_id=policy_id, backend=backend, path=path, explore=explore, activate=activate
        )
        _raise_unless(self._call(LoadPolicy, "policy/load", request, LOAD_TIMEOUT_S, LoadPolicy.Request()))

    def activate_policy(self, policy_id: str) -> None:
        """Swap to a loaded policy."""
        request = ActivatePolicy.Request(policy_id=policy_id)
        _raise_unless(self._call(ActivatePolicy, "policy/activate", request, 10.0, ActivatePolicy.Request()))

    def unload_policy(self, policy_id: str) -> None:
        """Unload a policy."""
        request = UnloadPolicy.Request(policy_id=policy_id)
        _raise_unless(self._call(UnloadPolicy, "policy/unload", request, 10.0, UnloadPolicy.Request()))

    def list_policies(self) -> Any:
        """Return the ListPolicies.Response."""
        return self._call(ListPolicies, "policy/list", ListPolicies.Request(), 10.0)

    def label_episode(self, success: bool, episode_id: str = "") -> str:
        """Label the running episode; returns the message of the episode manager. Raises UserError when refused."""
        request = LabelEpisode.Request(episode_id=episode_id, success=success)
        probe = LabelEpisode.Request(episode_id="no such episode")
        response = self._call(LabelEpisode, "episode/label", request, 10.0, probe)
        if not response.accepted:
            raise UserError(f"label: {response.message}")
        return str(response.message)

    def hold(self, hold: bool, reason: str = "") -> str:
        """Latch or release the gate; returns the message of the gate. Raises UserError when refused."""
        response = self._call(Hold, "gate/hold", Hold.Request(hold=hold, reason=reason), 10.0)
        _raise_unless(response)
        return str(response.message)

    def run_episodes(
        self,
        episodes: int,
        seed: int,
        objects: tuple[str, ...] = (),
        on_feedback: Callable[[RunEpisodes.Feedback], None] | None = None,
        until: Callable[[], bool] | None = None,
    ) -> Episodes:
        """Run episodes and return their outcome. `until` ends the run early; the running episode is truncated.

        Raises UserError when the stack dies, and StalledError when no episode ends for STALL_TIMEOUT_S: in lock-step a
        policy that does not answer stops the simulated clock, so that no other time-out would expire.
        """
        self._wait_for_episode_server(self._ready_timeout_s)
        goal = RunEpisodes.Goal(episodes=episodes, seed=seed, objects=list(objects), stop_on_hold=True)

        progressed_s = time.monotonic()

        def feedback(message: Any) -> None:
            nonlocal progressed_s
            progressed_s = time.monotonic()
            if on_feedback:
                on_feedback(message.feedback)

        sending = self._episodes.send_goal_async(goal, feedback_callback=feedback)
        self.wait(sending.done, 30.0, "action run_episodes", "episode")
        handle = sending.result()
        if not handle.accepted:
            raise UserError("run_episodes: the episode manager refused the goal; is another one running?")
        result = handle.get_result_async()
        cancelled = False

        def finished() -> bool:
            nonlocal cancelled
            if until and not cancelled and until():
                handle.cancel_goal_async()
                cancelled = True
            if time.monotonic() - progressed_s > STALL_TIMEOUT_S:
                reason = self.policy_status.last_error if self.policy_status else ""
                latched = f"; gate: {self.gate_status.reason}" if self.gate_status and self.gate_status.reason else ""
                raise StalledError(f"no episode ended for {STALL_TIMEOUT_S:.0f} s; policy: {reason or None}{latched}")
            return bool(result.done())

        try:
            self.wait(finished, float("inf"), "action run_episodes", "episode")
        except BaseException:
            # Wait for the answer: this process may end right after.
            cancelling, until_s = handle.cancel_goal_async(), time.monotonic() + CANCEL_TIMEOUT_S
            while not cancelling.done() and time.monotonic() < until_s:
                self._spin_once(0.1)
            raise
        outcome = result.result().result
        if outcome.episodes < episodes and not cancelled:
            raise UserError(f"run_episodes ended after {outcome.episodes} of {episodes} episodes: {outcome.message}")
        return Episodes(tuple(outcome.success), tuple(outcome.steps), tuple(outcome.episode_ids))


def _raise_unless(response: Any) -> None:
    if not response.success:
        raise UserError(response.message)


@contextmanager
def connected(
    namespace: str = "", check: Callable[[], None] | None = None, ready_timeout_s: float = READY_TIMEOUT_S
) -> Iterator[StackClient]:
    """Initialise rclpy if needed and yield a client.

    check: as for `StackClient`; ready_timeout_s: limit for services to become available.
    """
    owns_context = not rclpy.ok()
    if owns_context:
        prepare_network()
        # No signal handlers: Ctrl-C must raise KeyboardInterrupt here, since the runner ends the nodes in order.
        # No arguments: on our command line, name:=value is a launch argument and not a remap rule.
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    client = StackClient(namespace, check, ready_timeout_s)
    try:
        yield client
    finally:
        client.close()
        if owns_context:
            rclpy.try_shutdown()


def refuse_second_stack(client: StackClient, discovery_s: float = 3.0) -> None:
    """Raise UserError when a stack already runs on this ROS domain under the same namespace.

    Two stacks would both publish `target_pose`, and crisp_controllers then ignores every target.
    """
    namespace = client.node.get_namespace()
    deadline = time.monotonic() + discovery_s
    while time.monotonic() < deadline:
        client.spin(0.1)
        if ("gate", namespace) in client.node.get_node_names_and_namespaces():
            domain = client.node.context.get_domain_id()
            raise UserError(
                f"ROS domain {domain} already runs a stack ({namespace}/gate): stop it or set another ROS_DOMAIN_ID"
            )
