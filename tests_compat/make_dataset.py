"""Record bags, export them, write the card: make_dataset.py OUT. Runs in .venv, with ROS sourced.

OUT/data/two_cameras/1.0.0: gripper, two cameras of different sizes, splits train and val, many shards;
OUT/data/resized/2.1.0: no gripper, images decoded and resized, split train alone.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from rldg_core.types import Step
from rldg_data.bags.reading import bag_info, find_bags
from rldg_data.bags.recording import write_episode
from rldg_data.card import write_card
from rldg_data.plan import EpisodePlan, ImageFormat, Plan
from rldg_data.rlds.export import export_plan
from rldg_data.testing.steps import jpeg, make_episode, make_task


def with_side_camera(steps: list[Step]) -> list[Step]:
    def images(step: Step) -> dict[str, bytes]:
        return {**step.observation.images, "side": jpeg(96, 500 + step.index)}

    return [replace(s, observation=replace(s.observation, images=images(s))) for s in steps]


def record(bag_dir: Path, count: int, gripper: bool, cameras: int) -> list[Path]:
    for number in range(count):
        steps = make_episode(
            3 + number,
            seed=100 * number,
            object_name=("usb_a", "hdmi")[number % 2],
            success=number % 3 > 0,
            image_size=64,
            gripper=gripper,
        )
        write_episode(bag_dir, with_side_camera(steps) if cameras == 2 else steps, make_task(gripper), wall_time="now")
    return find_bags(bag_dir)


def main(out: Path) -> None:
    bags = record(out / "gripper", 12, True, 2)
    cameras = (("image", "wrist"), ("image_side", "side"))
    episodes = [
        EpisodePlan(
            "val" if number >= 9 else "train", (bag,), cameras=cameras, num_bytes=bag_info(bag).file.stat().st_size
        )
        for number, bag in enumerate(bags)
    ]
    passed = Plan("two_cameras", "1.0.0", tuple(episodes), description="Für den Test: zwei Kameras")
    bags = record(out / "fixed", 12, False, 1)
    images = ImageFormat(size_px=56, jpeg_quality=95)
    episodes = [
        EpisodePlan("train", (bag,), f"plug it in, {i}", images=images, num_bytes=1) for i, bag in enumerate(bags)
    ]
    resized = Plan("resized", "2.1.0", tuple(episodes))
    for plan, options in ((passed, {"shard_bytes": 30_000}), (resized, {})):
        write_card(export_plan(plan, out / "data", **options).path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
