"""How far the simulated cell is from an ideal one: noise, offsets, delays and friction, by preset.

`scene.realism` of a task chooses a preset; `rldg sim describe TASK` prints it. A value holds through a *day* (one run
of a stack: as long as a calibration), through an episode, or is drawn for each frame, as its description says.
Uniform values are within +- the setting, normal ones have it as their standard deviation.

Sources:
  [gaz]      Gaz et al., RA-L 2019: friction identified on a Panda (panda.FRICTION_NM).
  [wrench]   franka_ros issue 404: an arm at rest with nothing attached reports a force of (1.4, -0.4, 1.7) N and a
             torque of (0.0, 0.45, -0.15) N m, constant within 0.01 N, and others in another posture.
  [arm]      Franka's data sheets: repeatability of the pose +- 0.1 mm.
  [latency]  librealsense issue 4955: colour of a D415 at 640x480 and 30 Hz is 124 ms old, a screen included.
  [own]      An estimate without a published figure, to be replaced by a measurement.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, Field

from rldg_core.configuration import FrozenModel
from rldg_core.scenes import Realism


def _setting(high: float, description: str) -> Any:
    """Return a field: a number from 0, which switches it off, to `high`."""
    return Field(default=0.0, ge=0.0, le=high, allow_inf_nan=False, description=description)


class ArmRealism(FrozenModel):
    """How the arm moves, and where it stands."""

    friction: float = _setting(2.0, "Coulomb friction of the joints, a multiple of the identified one [gaz]")
    torque_error_nm: float = _setting(
        3.0, "Day, uniform: error of the dynamic model in each joint, which varies with the posture [N m] [wrench]"
    )
    delay_s: float = _setting(0.05, "Frame, uniform from 0: time until a target takes effect [s] [own]")
    fixture_m: float = _setting(0.02, "Day, normal: error of the fixture's measured position, per axis [m] [own]")
    fixture_rad: float = _setting(0.05, "Day, normal: error of its measured orientation, per axis [rad] [own]")


class HandRealism(FrozenModel):
    """How an object is held that the hand does not release, and what it resists."""

    slide_m: float = _setting(
        0.005, "Episode, uniform: where along the fingers it is held, x and z of the tcp [m] [own]"
    )
    tilt_rad: float = _setting(0.2, "Episode, uniform: turn about the axis between the fingers [rad] [own]")
    cable_n: float = _setting(3.0, "Episode, uniform: pull of its cable, per axis [N] [own]")
    mating: float = _setting(
        1.5, "Forces that resist insertion and withdrawal, a multiple of the published ones (connectors.MATING)"
    )


class SensorRealism(FrozenModel):
    """Pose and wrench as the robot reports them. The wrench is zero at the start of each episode, as if zeroed."""

    pose_m: float = _setting(0.002, "Frame, normal: noise of the position, per axis [m] [arm]")
    pose_rad: float = _setting(0.01, "Frame, normal: noise of the orientation, per axis [rad] [arm]")
    force_n: float = _setting(
        5.0, "Frame, normal: noise of the force at 0.1 m/s, in proportion to the speed below, per axis [N] [own]"
    )
    torque_nm: float = _setting(1.0, "Frame, normal: the same of the torque [N m] [own]")
    force_rest_n: float = _setting(1.0, "Frame, normal: noise of the force at rest, per axis [N] [wrench]")
    drift_n: float = _setting(5.0, "Episode, normal: drift of the force in a minute, per axis [N] [own]")


class CameraRealism(FrozenModel):
    """Images of every camera of the task."""

    mount_m: float = _setting(0.01, "Day, normal: error of the mount's position, per axis [m] [own]")
    mount_rad: float = _setting(0.1, "Day, normal: error of its orientation, per axis [rad] [own]")
    age_low_s: float = _setting(0.2, "Frame, uniform: least age of what an image shows [s] [latency]")
    age_high_s: float = _setting(0.2, "Frame, uniform: greatest age of what an image shows [s] [latency]")
    exposure: float = _setting(0.5, "Day, uniform: relative error of the exposure [own]")
    white_balance: float = _setting(0.3, "Day, uniform: relative error of red and of blue [own]")
    noise: float = _setting(30.0, "Frame, normal: noise of a pixel, of 255 levels [own]")
    blur_px: float = _setting(3.0, "Radius of the defocus, standard deviation, in an image of 256 pixels [px] [own]")


class LooksRealism(FrozenModel):
    """How things look. Nothing of it touches anything or weighs anything."""

    detail: float = _setting(
        1.0, "From 0.5 on, overmoulds, cables, labels, port surrounds and textures are drawn (scenes.connector.looks)"
    )
    cable_rad: float = _setting(0.6, "Episode, uniform: way of a cable out of the hand, about the tool [rad] [own]")
    wear: float = _setting(1.0, "Day, uniform from half of it: part of the scratches and streaks that are there [own]")
    table: float = _setting(0.5, "Day, uniform: brightness of the table, and a third as much of its hue [own]")
    fixture: float = _setting(0.5, "Day, uniform: brightness of the fixture, and a third as much of its hue [own]")
    connector: float = _setting(0.5, "Day, uniform: the same of overmould and port surround [own]")
    light_rad: float = _setting(1.0, "Day, normal: direction of each light, per axis [rad] [own]")
    light_strength: float = _setting(0.6, "Day, uniform: relative strength of the lights [own]")
    light_warmth: float = _setting(0.4, "Day, uniform: relative gain of red, and loss of blue, of the lights [own]")


class CellRealism(FrozenModel):
    """One preset. All zeros: the ideal cell."""

    arm: ArmRealism = ArmRealism()
    hand: HandRealism = HandRealism()
    sensors: SensorRealism = SensorRealism()
    camera: CameraRealism = CameraRealism()
    looks: LooksRealism = LooksRealism()

    def rows(self) -> Iterator[tuple[str, float, str]]:
        """Yield name, value and description of every setting."""
        for group in type(self).model_fields:
            part: BaseModel = getattr(self, group)
            for name, field in type(part).model_fields.items():
                yield f"{group}.{name}", float(getattr(part, name)), str(field.description)


PRESETS: Mapping[Realism, CellRealism] = {
    "ideal": CellRealism(),
    "bench": CellRealism(
        arm=ArmRealism(friction=1.0, torque_error_nm=0.5, delay_s=0.02, fixture_m=0.002, fixture_rad=0.004),
        hand=HandRealism(slide_m=0.001, tilt_rad=0.03, cable_n=0.3, mating=1.0),
        sensors=SensorRealism(pose_m=3e-5, pose_rad=1e-4, force_n=1.5, torque_nm=0.1, force_rest_n=0.02, drift_n=0.5),
        camera=CameraRealism(
            mount_m=0.002,
            mount_rad=0.01,
            age_low_s=0.033,
            age_high_s=0.067,
            exposure=0.15,
            white_balance=0.08,
            noise=3.0,
            blur_px=0.6,
        ),
        looks=LooksRealism(
            detail=1.0,
            cable_rad=0.3,
            wear=0.5,
            table=0.15,
            fixture=0.15,
            connector=0.1,
            light_rad=0.15,
            light_strength=0.15,
            light_warmth=0.08,
        ),
    ),
    "hard": CellRealism(
        arm=ArmRealism(friction=1.5, torque_error_nm=1.0, delay_s=0.04, fixture_m=0.004, fixture_rad=0.01),
        hand=HandRealism(slide_m=0.002, tilt_rad=0.06, cable_n=0.6, mating=1.1),
        sensors=SensorRealism(pose_m=1e-4, pose_rad=3e-4, force_n=2.5, torque_nm=0.2, force_rest_n=0.05, drift_n=1.5),
        camera=CameraRealism(
            mount_m=0.004,
            mount_rad=0.02,
            age_low_s=0.067,
            age_high_s=0.1,
            exposure=0.3,
            white_balance=0.15,
            noise=6.0,
            blur_px=1.2,
        ),
        looks=LooksRealism(
            detail=1.0,
            cable_rad=0.5,
            wear=1.0,
            table=0.3,
            fixture=0.3,
            connector=0.2,
            light_rad=0.3,
            light_strength=0.3,
            light_warmth=0.16,
        ),
    ),
}
"""`bench`: an ordinary day in a laboratory. `hard`: about twice as bad."""
