"""Check of the gate that the controller moves the measured frame (rldg_control.controlled_frame)."""

from __future__ import annotations

from time import monotonic

from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import GetParameters
from rclpy.node import Node
from std_msgs.msg import String

from rldg_control.controlled_frame import frame_fault, frame_pose
from rldg_core.types import Float64
from rldg_ros.qos import LATCHED
from rldg_ros.reporting import steady_timer
from rldg_ros.subscriptions import subscribe
from rldg_ros.vendors import vendor_topic

REQUEST_S = 0.5
PARAMETER = "end_effector_frame"


class FrameCheck:
    """Compares the frames until they agree once. fault: one line until then, "" afterwards."""

    def __init__(self, node: Node, controller: str, description_topic: str) -> None:
        self._name = vendor_topic(node, controller)
        self._topic = vendor_topic(node, description_topic)
        self._urdf = self._frame = ""
        self._passed = False
        self._requested_s = 0.0
        self._client = node.create_client(GetParameters, f"{self._name}/get_parameters")
        self._subscription = subscribe(node, String, self._topic, self._on_description, LATCHED)
        self._timer = steady_timer(node, REQUEST_S, self._request)
        self.fault = f"{self._name}: its parameter {PARAMETER} is not known yet"

    def close(self, node: Node) -> None:
        """Destroy timer, subscription and client."""
        node.destroy_timer(self._timer)
        node.destroy_subscription(self._subscription)
        node.destroy_client(self._client)

    def on_observation(self, pose_base_tcp: Float64, joint_positions: Float64) -> str:
        """Compare the frames if both are known; return the fault."""
        if self._passed or not (self._urdf and self._frame):
            return self.fault
        try:
            self.fault = frame_fault(pose_base_tcp, frame_pose(self._urdf, self._frame, joint_positions), self._frame)
        except ValueError as error:
            self.fault = f"{self._topic}: {error}"
        self._passed = not self.fault
        return self.fault

    def _on_description(self, message: String) -> None:
        self._urdf = message.data

    def _request(self) -> None:
        if self._frame:
            if not self._urdf:
                self.fault = f"{self._topic}: no robot description yet"
            return
        if not self._client.service_is_ready():
            self.fault = f"{self._name}: does not run: its parameter {PARAMETER} is not known"
        elif monotonic() - self._requested_s > 4 * REQUEST_S:
            # A response is lost while the server has not discovered this client.
            self._requested_s = monotonic()
            future = self._client.call_async(GetParameters.Request(names=[PARAMETER]))
            future.add_done_callback(lambda done: self._on_answer(done.result()))

    def _on_answer(self, answer: GetParameters.Response | None) -> None:
        value = answer.values[0] if answer and answer.values else None
        if value is None or value.type != ParameterType.PARAMETER_STRING or not value.string_value:
            self.fault = f"{self._name}: has no parameter {PARAMETER}, expected crisp_controllers/CartesianController"
        else:
            self._frame = value.string_value
