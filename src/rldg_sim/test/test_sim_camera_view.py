"""What is said of the wrist camera, against what it draws."""

from __future__ import annotations

from itertools import product

import mujoco
import numpy as np

from rldg_core.frames import rotation_of
from rldg_core.task import Task
from rldg_sim.camera_view import CameraView, camera_view
from rldg_sim.cell import Cell

SIZE = (160, 120)  # width, height
MARGIN_PX = 2.0


def project(view: CameraView, point_base: np.ndarray) -> np.ndarray:
    """(3,) -> column and row."""
    place = view.pose_base_optical
    at_camera = rotation_of(place).inv().apply(point_base - place[:3])
    u, v, w = view.intrinsics(*SIZE) @ at_camera
    return np.array([u / w, v / w])


def test_what_is_drawn_lies_where_it_is_projected(insertion: Task) -> None:
    cell = Cell(insertion)
    cell.reset(5)
    cell.image()
    drawing, view = cell._scene.drawing, cell.wrist_view()
    assert drawing is not None
    renderer = mujoco.Renderer(drawing.model, SIZE[1], SIZE[0])
    renderer.enable_segmentation_rendering()
    renderer.update_scene(drawing.data, "wrist")
    geoms = np.where(renderer.render()[..., 1] == int(mujoco.mjtObj.mjOBJ_GEOM), renderer.render()[..., 0], -1)
    renderer.close()
    compared = 0
    for geom in np.unique(geoms[geoms >= 0]).tolist():
        rows, columns = np.nonzero(geoms == geom)
        if len(rows) < 10 or drawing.model.geom(geom).name == "table":  # which reaches behind the camera
            continue
        # What is seen of a body, and be it half covered, lies within the projection of the box around it.
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


def test_the_optical_frame_looks_along_z() -> None:
    """A camera at the origin whose MuJoCo axes are those of the base looks down; its image's right is the base's x."""
    view = camera_view(np.zeros(3), np.eye(3).ravel(), 90.0)
    np.testing.assert_allclose(rotation_of(view.pose_base_optical).apply([0, 0, 1]), [0, 0, -1], atol=1e-12)
    np.testing.assert_allclose(rotation_of(view.pose_base_optical).apply([1, 0, 0]), [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(
        view.intrinsics(*SIZE), [[60.0, 0.0, 79.5], [0.0, 60.0, 59.5], [0.0, 0.0, 1.0]], atol=1e-12
    )
