"""CPU load of a node that listens to the Joy topic of a SpaceMouse at 890 Hz, as its driver publishes: three methods.

Goal: read in intervals, at most half of one callback for each decoded message. The publisher is another process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import rclpy
from _report import report
from rclpy.executors import Executor
from rclpy.node import Node
from sensor_msgs.msg import Joy

from rldg_ros.runner import DefaultExecutor
from rldg_ros.vendors import ChangeFilter, PolledSubscriptions

RATE_HZ = 890
MEASURED_S = 5.0
SENDER = f"""
import time, rclpy
from sensor_msgs.msg import Joy
rclpy.init()
node = rclpy.create_node("spacenav")
out, message = node.create_publisher(Joy, "spacenav/joy", 10), Joy(axes=[0.0] * 6, buttons=[0, 0])
due_s = time.monotonic()
while True:
    due_s += 1 / {RATE_HZ}
    time.sleep(max(0.0, due_s - time.monotonic()))
    message.header.stamp = node.get_clock().now().to_msg()
    out.publish(message)
"""


def measure(way: str) -> tuple[float, float]:
    """Return % of a core and messages per second of a node that listens with this method."""
    node, executor = Node(way), DefaultExecutor()
    count = 0

    def take(_message: object = None) -> None:
        nonlocal count
        count += 1

    if way == "decoded":
        node.create_subscription(Joy, "spacenav/joy", lambda message: take(message.buttons), 10)
    elif way == "raw":
        node.create_subscription(Joy, "spacenav/joy", take, 10, raw=True)
    else:
        PolledSubscriptions(node).add(Joy, "spacenav/joy", ChangeFilter(Joy, take, take))
    executor.add_node(node)
    spin(executor, 1.5)
    count, cpu_s, start_s = 0, time.process_time(), time.monotonic()
    spin(executor, MEASURED_S)
    wall_s = time.monotonic() - start_s
    result = 100 * (time.process_time() - cpu_s) / wall_s, count / wall_s
    executor.remove_node(node)
    node.destroy_node()
    return result


def spin(executor: Executor, duration_s: float) -> None:
    """Spin for this duration."""
    end_s = time.monotonic() + duration_s
    while time.monotonic() < end_s:
        executor.spin_once(timeout_sec=0.1)


def main() -> None:
    """Measure each method in a process of its own, with one publisher."""
    if len(sys.argv) > 1:
        rclpy.init()
        print(*measure(sys.argv[1]), flush=True)
        os._exit(0)
    sender = subprocess.Popen([sys.executable, "-c", SENDER])
    try:
        results = {}
        for way in ("decoded", "raw", "polled"):
            output = subprocess.run([sys.executable, __file__, way], capture_output=True, text=True, check=True).stdout
            results[way] = [float(value) for value in output.split()[-2:]]
    finally:
        sender.kill()
        sender.wait()
    values = {f"{way}_cpu_percent": round(cpu, 1) for way, (cpu, _) in results.items()}
    rates = {f"{way}_hz": round(rate) for way, (_, rate) in results.items()}
    # For each message that arrived: a busy machine sends fewer.
    cost = {way: cpu / rate for way, (cpu, rate) in results.items()}
    report("joy", {**values, **rates, "polled_to_decoded": round(cost["polled"] / cost["decoded"], 2)})


if __name__ == "__main__":
    main()
