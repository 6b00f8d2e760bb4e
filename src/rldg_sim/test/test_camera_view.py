"""The stated view of the cameras compared with their images."""

from __future__ import annotations

from itertools import product

import mujoco
import numpy as np
import pytest

from rldg_core.configuration import validated
from rldg_core.errors import UserError
from rldg_core.frames import rotation_of
from rldg_core.task import Task
from rldg_sim.cameras import CameraView, camera_view
from rldg_sim.cell import Cell

SIZE = (160, 120)  # width, height
MARGIN_PX = 2.0


def project(view: CameraView, point_base: np.ndarray) -> np.ndarray:
    """Project a point (3,) to column and row."""
    place = view.pose_base_optical
    at_camera = rotation_of(place).inv().apply(point_base - place[:3])
    u, v, w = view.intrinsics(*SIZE) @ at_camera
    return np.array([u / w, v / w])


SIDE = {
    "topic": "side/color/image_raw",
    "width": 160,
    "height": 120,
    "image_size": 64,
    "mount": {"position_base_m": [0.9, 0.5, 0.45], "aim_base_m": [0.5, 0.0, 0.15]},
}


@pytest.fixture
def two_cameras(insertion: Task) -> Task:
    cameras = insertion.model_dump()["cameras"] | {"side": SIDE}
    return Task.model_validate(insertion.model_dump() | {"cameras": cameras})


def test_every_camera_has_its_own_image(insertion: Task, two_cameras: Task) -> None:
    cell, single = Cell(two_cameras), Cell(insertion)
    frame, alone = cell.reset(5), single.reset(5)
    assert list(frame.images) == ["wrist", "side"] and frame.images["side"].shape == (120, 160, 3)
    assert np.array_equal(frame.images["wrist"], alone.images["wrist"]), "a second camera does not change the first"
    side = frame.images["side"]
    assert side.std() > 10
    moved = cell.step([0, 0, 1, 0, 0, 0]).images["side"]
    assert np.any(moved != side), "the arm is visible"
    other = cell.reset(6).images["side"]
    assert np.any(other[:20] != side[:20]), "light and mount vary between episodes"
    assert np.array_equal(cell.reset(5).images["side"], side)
    cell.close()
    single.close()


def test_invalid_mount_is_refused(insertion: Task, two_cameras: Task) -> None:
    plain = insertion.model_dump()["cameras"]["wrist"]
    twice = insertion.model_dump() | {"cameras": {"wrist": plain, "other": plain | {"topic": "other/color/image_raw"}}}
    with pytest.raises(
        UserError, match=r"^task insertion: cameras\.other: has no mount, and the simulated wrist carries"
    ):
        Cell(Task.model_validate(twice))
    here = {"position_base_m": [0.5, 0, 0.5], "aim_base_m": [0.5, 0, 0.5]}
    with pytest.raises(UserError, match=r"^here: cameras\.side\.mount: aim_base_m: at the camera's own position"):
        validated(Task, two_cameras.model_dump() | {"cameras": {"side": SIDE | {"mount": here}}}, "here")
    mount = SIDE["mount"] | {"fovy_deg": 179}  # type: ignore[operator]
    with pytest.raises(UserError, match=r"^here: cameras\.side\.mount\.fovy_deg: Input should be less"):
        validated(Task, two_cameras.model_dump() | {"cameras": {"side": SIDE | {"mount": mount}}}, "here")
    assert "mount" not in insertion.cameras["wrist"].model_dump(), "the hash of a task without mounts is unchanged"
    moved = SIDE | {"mount": {"position_base_m": [0.9, 0.5, 0.5], "aim_base_m": [0.5, 0.0, 0.15]}}
    other = Task.model_validate(two_cameras.model_dump() | {"cameras": {"wrist": plain, "side": moved}})
    assert len({task.config_hash() for task in (insertion, two_cameras, other)}) == 3
    assert "mount" not in insertion.views["wrist"], "views of cameras on the wrist stay as they were recorded"
    assert two_cameras.views["side"] != other.views["side"], "data of a camera that was moved is other data"


@pytest.mark.parametrize("down", [[0.5, 0.0, 0.9], [0.5, 0.001, 0.9]])
def test_camera_can_look_straight_down(insertion: Task, down: list[float]) -> None:
    camera = SIDE | {"mount": {"position_base_m": down, "aim_base_m": [0.5, 0.0, 0.0]}}
    cell = Cell(Task.model_validate(insertion.model_dump() | {"cameras": {"top": camera}}))
    cell.reset(1)
    axis = rotation_of(cell.camera_view("top").pose_base_optical).apply([0, 0, 1])
    np.testing.assert_allclose(axis, [0, 0, -1], atol=0.02)
    cell.close()


@pytest.mark.parametrize("camera", ["wrist", "side"])
def test_rendered_bodies_are_where_the_view_projects_them(two_cameras: Task, camera: str) -> None:
    cell = Cell(two_cameras)
    cell.reset(5)
    drawing, view = cell._simulation.renderer, cell.camera_view(camera)
    assert drawing is not None
    renderer = mujoco.Renderer(drawing.model, SIZE[1], SIZE[0])
    renderer.enable_segmentation_rendering()
    renderer.update_scene(drawing.data, drawing._ids[camera])
    geoms = np.where(renderer.render()[..., 1] == int(mujoco.mjtObj.mjOBJ_GEOM), renderer.render()[..., 0], -1)
    renderer.close()
    compared = 0
    for geom in np.unique(geoms[geoms >= 0]).tolist():
        rows, columns = np.nonzero(geoms == geom)
        if len(rows) < 10 or drawing.model.geom(geom).name == "table":  # the table reaches behind the camera
            continue
        # The visible part of a body, even when occluded, lies within the projection of its bounding box.
        centre, half = np.split(drawing.model.geom_aabb[geom], 2)
        axes = drawing.data.geom_xmat[geom].reshape(3, 3)
        corners = [drawing.data.geom_xpos[geom] + axes @ (centre + half * s) for s in product((-1, 1), repeat=3)]
        box = np.array([project(view, corner) for corner in corners])
        seen = np.array([[columns.min(), rows.min()], [columns.max(), rows.max()]])
        assert (seen[0] > box.min(axis=0) - MARGIN_PX).all(), drawing.model.geom(geom).name
        assert (seen[1] < box.max(axis=0) + MARGIN_PX).all(), drawing.model.geom(geom).name
        compared += 1
    assert compared >= 3
    cell.close()


def test_optical_frame_looks_along_z() -> None:
    """A camera at the origin with MuJoCo axes equal to the base's looks down; right in its image is x of the base."""
    view = camera_view(np.zeros(3), np.eye(3).ravel(), 90.0)
    np.testing.assert_allclose(rotation_of(view.pose_base_optical).apply([0, 0, 1]), [0, 0, -1], atol=1e-12)
    np.testing.assert_allclose(rotation_of(view.pose_base_optical).apply([1, 0, 0]), [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(
        view.intrinsics(*SIZE), [[60.0, 0.0, 79.5], [0.0, 60.0, 59.5], [0.0, 0.0, 1.0]], atol=1e-12
    )
