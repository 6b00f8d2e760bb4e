"""Cost of bags: lost messages and CPU of the recorder node under load; Steps read per second.

    python benchmarks/bag.py

Writing: 10 Hz Steps with a 256 px JPEG and a 30 Hz 640x480 rgb8 image with sensor noise, as DDS messages of this
process, into the recorder node in a process of its own; the bag is then counted. What a camera's driver overwrites in
its own queue (RealSense's keeps one image) is lost before any recorder can see it: the publisher here has ROS's default
queue. Floor for the writer: the `mcap` library's writer, same messages uncompressed, without DDS (CPU ratio, > 1: the
library takes more). Reading: `read_episode`, images left as JPEG; peer: rosbags' reader and deserialiser on the same
bags. Decoding: CDR bytes -> Step in memory, by the specialised decoder and by the generic one, which reads every other
definition of a Step.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import rclpy
from _report import report
from builtin_interfaces.msg import Time
from mcap.writer import CompressionType, Writer
from rclpy.node import Node
from rosbags.highlevel import AnyReader
from sensor_msgs.msg import Image

from rldg_core.image_codec import encode_jpeg
from rldg_core.task import Task, load_task
from rldg_core.types import ExecutedAction, Observation, Source, Step
from rldg_data.bags import step_cdr
from rldg_data.bags.cdr import decode_generic, encode_step
from rldg_data.bags.mcap_writer import PRESETS, McapFile
from rldg_data.bags.reading import bag_info, find_bags, read_episode
from rldg_data.bags.recording import write_episode
from rldg_data.bags.schemas import STEP_TYPE, schema_text
from rldg_msgs.msg import Step as StepMessage
from rldg_ros import to_msg
from rldg_ros.qos import STEPS_OUT

TASK_FILE = Path(__file__).resolve().parents[1] / "src/rldg_bringup/config/tasks/insertion.yaml"
STEP_HZ, IMAGE_HZ = 10, 30
WIDTH, HEIGHT, JPEG_PX = 640, 480, 256
IMAGE_TOPIC = "/camera/camera/color/image_raw"
START_TIMEOUT_S = 30.0
DECODINGS = 20
"""Repeats of decoding an episode, of which the fastest counts."""
SETTLE_S = 1.0
"""Wait for messages in transit before the last Step closes the bag: images and Steps are not ordered."""


def scenes(count: int, height: int, width: int, seed: int = 0) -> list[np.ndarray[Any, Any]]:
    """Return smooth images with sensor noise, which does not compress."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    found = []
    for number in range(count):
        smooth = 128 + 80 * np.sin((rows + 9 * number) / 60.0) * np.cos(columns / 80.0)
        noisy = smooth[..., None] + rng.normal(0, 2.0, (height, width, 3))
        found.append(np.clip(noisy, 0, 255).astype(np.uint8))
    return found


def episode(task: Task, steps: int, seed: int = 0) -> list[Step]:
    """Return a complete successful episode of the task with `steps` Steps."""
    rng = np.random.default_rng(seed)
    jpegs = [encode_jpeg(image, 90) for image in scenes(10, JPEG_PX, JPEG_PX, seed)]
    found = []
    for index in range(steps):
        last = index == steps - 1
        stamp_ns = 1_700_000_000_000_000_000 + index * 100_000_000
        executed = np.empty(0, np.float32) if last else rng.uniform(-1, 1, 6).astype(np.float32)
        seen = Observation(
            stamp_ns, {"wrist": jpegs[index % 10]}, rng.normal(size=7), rng.normal(size=6), rng.normal(size=6),
            rng.normal(size=7), 0.04,
        )  # fmt: skip
        action = ExecutedAction(stamp_ns, executed, executed, Source.NONE if last else Source.POLICY)
        won = index >= steps - 2
        found.append(
            Step(
                f"bench/{seed}", index, index, task.name, task.default_object, "insert", seed, seen, action,
                float(index == steps - 2), won, False, index == 0, last, won,
            )
        )  # fmt: skip
    return found


def wait(condition: Callable[[], bool], what: str) -> None:
    """Poll a condition. Raises TimeoutError."""
    end = time.monotonic() + START_TIMEOUT_S
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.02)


def record_live(task: Task, bag_dir: Path, seconds: float, image_depth: int) -> dict[str, object]:
    """Stream messages to the recorder node and count those missing in its bag."""
    rclpy.init()
    node = Node("bench_bag", namespace="rldg")
    steps_out = node.create_publisher(StepMessage, "step", STEPS_OUT)
    images_out = node.create_publisher(Image, IMAGE_TOPIC, image_depth)
    steps = [to_msg.step(step) for step in episode(task, int(seconds * STEP_HZ) + 2)]
    images = [
        Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=3 * WIDTH, data=image.tobytes())
        for image in scenes(IMAGE_HZ, HEIGHT, WIDTH)
    ]
    command = [sys.executable, "-c", "from rldg_data.nodes.recorder import main; main()", "--ros-args"]
    command += ["-r", "__ns:=/rldg", "-p", f"task:={TASK_FILE}", "-p", f"bag_dir:={bag_dir}"]
    command += ["-p", f"topics:=['{IMAGE_TOPIC}']"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait(lambda: steps_out.get_subscription_count() > 0, "the recorder subscribes to step")
        wait(lambda: images_out.get_subscription_count() > 0, "the recorder subscribes to the image")
        steps_out.publish(steps[0])
        wait(lambda: any(bag_dir.glob(".episode_*.partial")), "the bag is open")
        watched = psutil.Process(process.pid)
        before, start = watched.cpu_times(), time.monotonic()
        published = late = 0
        for tick in range(int(seconds * IMAGE_HZ)):
            delay_s = start + tick / IMAGE_HZ - time.monotonic()
            if delay_s > 0:
                time.sleep(delay_s)
            late += delay_s < -1 / IMAGE_HZ
            image = images[tick % IMAGE_HZ]
            now_ns = time.time_ns()
            image.header.stamp = Time(sec=now_ns // 10**9, nanosec=now_ns % 10**9)
            images_out.publish(image)
            published += 1
            if tick % (IMAGE_HZ // STEP_HZ) == 0:
                steps_out.publish(steps[1 + tick // (IMAGE_HZ // STEP_HZ)])
        wall_s = time.monotonic() - start
        after = watched.cpu_times()
        time.sleep(SETTLE_S)
        sent_steps = 1 + int(np.ceil(int(seconds * IMAGE_HZ) / (IMAGE_HZ // STEP_HZ)))
        steps[-1].index = sent_steps
        steps_out.publish(steps[-1])
        wait(lambda: len(find_bags(bag_dir)) == 1, "the bag is closed")
        process.terminate()
        process.wait(START_TIMEOUT_S)
    finally:
        process.kill()
        node.destroy_node()
        rclpy.shutdown()
    (bag,) = find_bags(bag_dir)
    info = bag_info(bag)
    got_steps, got_images = len(read_episode(bag)), info.topics[IMAGE_TOPIC][1]
    return {
        "write_dropped": sent_steps + 1 - got_steps + published - got_images,
        "write_cpu_share": round((after.user + after.system - before.user - before.system) / wall_s, 3),
        "write_seconds": round(wall_s, 1),
        "image_queue": image_depth,
        "write_steps": got_steps,
        "write_images": got_images,
        "write_mb_per_s": round(sum(file.stat().st_size for file in info.files) / wall_s / 1e6, 1),
        "publisher_late_ticks": late,
    }


def cpu_s(action: Callable[[], object], repeats: int = 3) -> float:
    """Return the smallest CPU time of a call [s]."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        action()
        times.append(time.process_time() - start)
    return min(times)


def write_ratio(task: Task, folder: Path) -> float:
    """Return the CPU time of the writer of `mcap` relative to ours for 3 s of that stream, both uncompressed."""
    images = [image.tobytes() for image in scenes(IMAGE_HZ, HEIGHT, WIDTH)] * 3
    steps = [encode_step(step) for step in episode(task, 3 * STEP_HZ)]
    messages = [data for n, image in enumerate(images) for data in ([image, steps[n // 3]] if n % 3 == 0 else [image])]

    def ours() -> None:
        file = McapFile(folder / "ours.mcap", PRESETS["none"])
        channel = file.add_channel("/a", file.add_schema(STEP_TYPE, schema_text(STEP_TYPE)), {})
        for number, data in enumerate(messages):
            file.add_message(channel, number * 25_000_000, 0, data)
        file.close()

    def theirs() -> None:
        with (folder / "theirs.mcap").open("wb") as stream:
            writer = Writer(stream, compression=CompressionType.NONE)
            writer.start("ros2", "bench")
            schema = writer.register_schema(STEP_TYPE, "ros2msg", schema_text(STEP_TYPE).encode())
            channel = writer.register_channel("/a", "cdr", schema)
            for number, data in enumerate(messages):
                writer.add_message(channel, number * 25_000_000, data, 0)
            writer.finish()  # type: ignore[no-untyped-call]

    return cpu_s(theirs) / cpu_s(ours)


def read_rates(task: Task, folder: Path, bags: int = 20, steps: int = 100) -> dict[str, object]:
    """Return Steps read per second by this package and by rosbags from the same bags (wall time, best of five).

    And the CPU time in which a Step is decoded, by both decoders of this package.
    """
    template = episode(task, steps)
    for number in range(bags):
        write_episode(folder, [replace(step, episode_id=f"bench/{number}") for step in template], task)
    paths = find_bags(folder)

    def ours() -> int:
        return sum(len(read_episode(path)) for path in paths)

    def rosbags() -> int:
        count = 0
        for path in paths:
            with AnyReader([path]) as reader:
                for connection, _, raw in reader.messages():
                    reader.deserialize(raw, connection.msgtype)
                    count += 1
        return count

    rates = {}
    for name, read in (("ours", ours), ("rosbags", rosbags)):
        best_s = float("inf")
        for _ in range(5):
            start = time.perf_counter()
            assert read() == bags * steps
            best_s = min(best_s, time.perf_counter() - start)
        rates[name] = bags * steps / best_s
    encoded, schema = [encode_step(step) for step in template], schema_text(STEP_TYPE)
    decode_s = cpu_s(lambda: [step_cdr.decode(data) for data in encoded], DECODINGS) / steps
    generic_s = cpu_s(lambda: [decode_generic(data, schema) for data in encoded], DECODINGS) / steps
    return {
        "decode_cpu_us": round(decode_s * 1e6, 1),
        "decode_generic_cpu_us": round(generic_s * 1e6, 1),
        "read_steps_per_s": round(rates["ours"]),
        "read_rosbags_steps_per_s": round(rates["rosbags"]),
        "read_rosbags_ratio": round(rates["ours"] / rates["rosbags"], 2),
        "read_jpeg_bytes": len(next(iter(template[0].observation.images.values()))),
    }


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of streaming into the recorder")
    parser.add_argument("--image-depth", type=int, default=10, help="queue of the image's publisher; 10 is ROS's own")
    arguments = parser.parse_args()
    task = load_task(TASK_FILE)
    values: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        values |= record_live(task, Path(folder) / "live", arguments.seconds, arguments.image_depth)
    with tempfile.TemporaryDirectory() as folder:
        values |= read_rates(task, Path(folder) / "read")
        values["write_mcap_library_cpu_ratio"] = round(write_ratio(task, Path(folder)), 2)
    report("bag", values)


if __name__ == "__main__":
    main()
