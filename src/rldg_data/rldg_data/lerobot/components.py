"""Identify the components of a feature by their names (`names` in meta/info.json).

Components are found by name in any order, their units are converted, and names that contradict the expected kind of
feature (joints, absolute poses, velocities, base axes) are refused. A feature without names, or with numbered names
only, is read in the order of this suite.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from rldg_core.configuration import Finite, FrozenModel, load_model
from rldg_core.errors import UserError, quoted
from rldg_core.types import Float64


class FeatureNames(FrozenModel):
    """images: feature -> camera; empty: every image and video feature except depth maps.

    components: feature -> names of its values (`rldg_data.lerobot.components`), which replace those of the
    dataset. state: 7 or 8 values, tcp in base [m], quaternion xyzw, gripper width [m]. twist: differences of
    the poses where a dataset has none; wrench: zeros where it has none. action: 6 or 7 values, delta of the tcp in tcp
    axes and the gripper. action_unit: "m_rad", or "normalised" in [-1, 1], to be multiplied by the task's scale.
    gripper_closed_open: values of the action that mean closed and open. assume_success: outcome of an
    episode without next.success and next.reward.
    """

    images: dict[str, str] = Field(default_factory=dict)
    components: dict[str, list[str]] = Field(default_factory=dict)
    state: str = "observation.state"
    twist: str = "observation.twist"
    wrench: str = "observation.wrench"
    action: str = "action"
    action_unit: Literal["m_rad", "normalised"] = "m_rad"
    gripper_closed_open: tuple[Finite, Finite] = (0.0, 1.0)
    assume_success: bool = False

    @model_validator(mode="after")
    def _distinct(self) -> FeatureNames:
        if self.gripper_closed_open[0] == self.gripper_closed_open[1]:
            raise ValueError("gripper_closed_open: closed and open are the same value")
        return self


def load_feature_names(path: Path) -> FeatureNames:
    """Read the YAML file. Raises UserError `path: key: reason`."""
    return load_model(FeatureNames, path, "feature names")


Kind = Literal["state", "action", "twist", "wrench"]

_AXES, _TURNS = ("x", "y", "z"), ("roll", "pitch", "yaw")
_UNITS: Mapping[str, tuple[str, float]] = {
    "m": ("m", 1.0),
    "mm": ("m", 1e-3),
    "cm": ("m", 1e-2),
    "rad": ("rad", 1.0),
    "deg": ("rad", math.pi / 180),
    "m s": ("m/s", 1.0),
    "mm s": ("m/s", 1e-3),
    "rad s": ("rad/s", 1.0),
    "deg s": ("rad/s", math.pi / 180),
    "n": ("N", 1.0),
    "n m": ("N m", 1.0),
    "nm": ("N m", 1.0),
}
"""Last words of a name -> (unit of this suite, conversion factor)."""
_PASSED_OVER = frozenset(
    [
        "observation",
        "state",
        "action",
        "ee",
        "eef",
        "tcp",
        "tool",
        "end",
        "effector",
        "robot",
        "arm",
        "cartesian",
        "base",
        "world",
        "body",
        "frame",
        "panda",
        "fr3",
    ]
)
"""Words that do not identify a component."""
_OTHER_FRAME: Mapping[Kind, frozenset[str]] = {
    "state": frozenset(),
    "action": frozenset({"base", "world"}),
    "wrench": frozenset({"base", "world"}),
    "twist": frozenset({"tcp", "tool", "body"}),
}
_GENERIC = re.compile(
    r"(?:(?:observation[ ._])?(?:actions?|states?|observations?|obs|values?|vector|dim(?:ension)?|features?|"
    r"components?|elements?|items?|index|col(?:umn)?|channel)?[ ._-]?\d*)",
    re.IGNORECASE,
)
"""Names that only number the values. Any other word has a meaning: `j1` and `a1` are joints, `x0` is not x."""
_JOINT = re.compile(
    r"joint|motor|shoulder|elbow|wrist|servo|knuckle|axis|dof|theta|\.pos$|(?:^|[ ._-])[ajq]_?\d+$", re.IGNORECASE
)


def _each(forms: Sequence[str], axes: Sequence[str] = _AXES) -> list[frozenset[str]]:
    return [frozenset(form.format(axis) for form in forms) for axis in axes]


def _both(forms: Sequence[str]) -> list[frozenset[str]]:
    """Of a rotation: by axis or by roll, pitch, yaw."""
    turns = _each([form.replace("r{}", "{}").replace("w{}", "{}") for form in forms], _TURNS)
    return [axis | turn for axis, turn in zip(_each(forms), turns, strict=True)]


_WIDTH = frozenset({"gripper", "gripperwidth", "width", "gripperopening", "fingerwidth"})
_GRIPPER_WORDS = ("open", "opened", "pos", "position", "cmd", "command", "action", "closed", "close")
_GRIPPER = _WIDTH | {f"gripper{word}" for word in _GRIPPER_WORDS}
_COMPONENTS: Mapping[Kind, tuple[list[frozenset[str]], int, str]] = {
    # kind: (accepted forms of each component, number of required ones, expected components)
    "state": (
        [
            *_each(["{}", "p{}", "pos{}", "position{}"]),
            *_each(["q{}", "quat{}", "quaternion{}", "orientation{}"], ("x", "y", "z", "w")),
            _WIDTH,
        ],
        7,
        "x, y, z [m], qx, qy, qz, qw and, with a gripper, gripper_width",
    ),
    "action": (
        [
            *_each(["d{}", "delta{}", "dpos{}", "deltapos{}", "deltaposition{}"]),
            *_both(["dr{}", "deltar{}", "dw{}", "deltaw{}", "drot{}", "deltarot{}", "drotvec{}"]),
            _GRIPPER,
        ],
        6,
        "deltas dx, dy, dz, drx, dry, drz and, with a gripper, gripper",
    ),
    "twist": (
        [*_each(["v{}", "vel{}", "linear{}", "linvel{}"]), *_each(["w{}", "omega{}", "angular{}", "angvel{}"])],
        6,
        "vx, vy, vz, wx, wy, wz",
    ),
    "wrench": ([*_each(["f{}", "force{}"]), *_each(["t{}", "torque{}", "m{}"])], 6, "fx, fy, fz, tx, ty, tz"),
}
_UNIT_OF: Mapping[Kind, Sequence[str]] = {
    "state": ("m", "m", "m", "", "", "", "", "m"),
    "action": ("m", "m", "m", "rad", "rad", "rad", "m"),
    "twist": ("m/s",) * 3 + ("rad/s",) * 3,
    "wrench": ("N",) * 3 + ("N m",) * 3,
}


@dataclass(frozen=True)
class Components:
    """indices (D,): positions of the components in a feature; factors (D,): conversion to the units of this suite.

    names (D,): of the components; empty where the dataset has none. with_unit: whether any name has a unit.
    """

    indices: tuple[int, ...]
    factors: tuple[float, ...]
    names: tuple[str, ...] = ()
    with_unit: bool = False

    def take(self, values: Float64) -> Float64:
        """(N, values of the feature) -> (N, D)."""
        taken: Float64 = np.ascontiguousarray(values[:, list(self.indices)] * np.array(self.factors))
        return taken


def components(kind: Kind, names: Any, count: int, where: str) -> Components:
    """Find the components of a feature of `count` values. names: as in meta/info.json.

    Raises UserError `where: ...` when there are names that do not match this kind of feature.
    """
    listed = _flat(names, where)
    forms, needed, expected = _COMPONENTS[kind]
    unnamed = all(_GENERIC.fullmatch(name) for name in listed) and not any(_JOINT.search(name) for name in listed)
    if unnamed:
        if count not in (needed, len(forms)):
            wanted = " or ".join(map(str, sorted({needed, len(forms)})))
            raise UserError(f"{where}: {count} values without names, expected {wanted}: {expected}; {_ADVICE}")
        return Components(tuple(range(count)), (1.0,) * count)
    if len(listed) != count:
        raise UserError(f"{where}: {len(listed)} names for {count} values")
    found: dict[int, int] = {}
    factors = [1.0] * count
    units = [False] * count
    for index, name in enumerate(listed):
        core, unit, words = _parsed(name)
        component = next((k for k, accepted in enumerate(forms) if core in accepted), None)
        if component is None:
            if kind == "action":
                raise UserError(f"{where}: {quoted(name)} {_what(name, core)}, expected {expected}; {_ADVICE}")
            continue
        if component in found:
            raise UserError(
                f"{where}: {quoted(listed[found[component]])} and {quoted(name)} are the same component, expected one"
            )
        if wrong := words & _OTHER_FRAME[kind]:
            axes = "tcp" if kind != "twist" else "base"
            raise UserError(f"{where}: {quoted(name)} is in the {min(wrong)} frame, expected {axes} axes; {_ADVICE}")
        expected_unit = _UNIT_OF[kind][component]
        if unit and unit[0] != expected_unit:
            raise UserError(
                f"{where}: {quoted(name)} is in {unit[0]}, expected {expected_unit or 'no unit'}; {_ADVICE}"
            )
        found[component] = index
        factors[index], units[index] = (unit[1], True) if unit else (1.0, False)
    missing = [k for k in range(needed) if k not in found]
    if missing:
        strange = next((name for k, name in enumerate(listed) if k not in found.values()), "")
        said = f"{quoted(strange)} {_what(strange, _parsed(strange)[0])}" if strange else "a component is missing"
        raise UserError(f"{where}: {said}, expected {expected}; {_ADVICE}")
    order = [found[k] for k in sorted(found)]
    return Components(
        tuple(order),
        tuple(factors[k] for k in order),
        tuple(listed[k] for k in order),
        any(units[found[k]] for k in range(needed)),
    )


_ADVICE = "name the values in the names file, `components`"


def _flat(names: Any, where: str) -> list[str]:
    """Names of all values in order: a list, {"motors": [..]}, or {name: index}."""
    if names is None:
        return []
    if isinstance(names, dict) and names and all(isinstance(value, int) for value in names.values()):
        return [str(name) for name, _ in sorted(names.items(), key=lambda item: item[1])]
    if isinstance(names, dict):
        return [name for part in names.values() for name in _flat(part, where)]
    if isinstance(names, list | tuple):
        return [name for part in names for name in (_flat(part, where) if isinstance(part, list) else [str(part)])]
    raise UserError(f"{where}: names are {str(names)[:60]!r}, expected a list")


def _parsed(name: str) -> tuple[str, tuple[str, float] | None, frozenset[str]]:
    """(words that name a component, joined; unit and factor; all words)."""
    words = re.findall(r"[a-z]+|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    unit, rest = None, words
    for length in (2, 1):
        if len(words) > length and (known := _UNITS.get(" ".join(words[-length:]))):
            unit, rest = known, words[:-length]
            break
    return "".join(word for word in rest if word not in _PASSED_OVER), unit, frozenset(words)


def _what(name: str, core: str) -> str:
    """Describe an unexpected name."""
    absolute = {form for forms in _COMPONENTS["state"][0] for form in forms} | {
        *(f"{prefix}{axis}" for prefix in ("r", "w", "target", "rot", "rotvec") for axis in _AXES),
        *_TURNS,
    }
    if _JOINT.search(name):
        return "is a joint"
    if core in absolute:
        return "is absolute"
    return "is a velocity" if "vel" in core else "is not one of its components"
