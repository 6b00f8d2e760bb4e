"""Numbers of episodes and steps of `make demo` and of `rldg demo --quick`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from rldg_bringup.pipeline import TrainingLimits


@dataclass(frozen=True)
class DemoPlan:
    """Numbers of episodes and steps.

    dataset_episodes: at most, and both datasets get as many as the smaller one. episode_steps: limit of an episode in
    place of the task's. only_success: false only in the smoke test, whose specialist has not learned.
    """

    object_name: str = "vga"
    unseen_objects: tuple[str, ...] = ("usb_c", "hdmi", "displayport", "xlr")
    demonstrations: int = 250
    rl_demonstrations: int = 20
    training: TrainingLimits = field(default_factory=lambda: TrainingLimits(0.95, min_steps=4_500, max_steps=12_000))
    rollouts: int = 200
    dataset_episodes: int = 180
    only_success: bool = True
    finetune_steps: int = 1500
    evaluation: int = 20
    swaps: int = 20
    episode_steps: int | None = None


FULL = DemoPlan()

QUICK = replace(
    FULL,
    unseen_objects=("usb_c",),
    demonstrations=2,
    rl_demonstrations=2,
    training=TrainingLimits(success_rate=2.0, min_steps=0, max_steps=150),
    rollouts=2,
    dataset_episodes=2,
    only_success=False,
    finetune_steps=20,
    evaluation=1,
    swaps=4,
    episode_steps=30,
)
