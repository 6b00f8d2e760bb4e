"""Convex polygons, counter-clockwise (n, 2) float64 arrays [m]: cross-sections of plugs and ports."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def rectangle(width: float, height: float) -> Array:
    """Rectangle around the origin: `height` along x, `width` along y (the wide side of a port lies along y)."""
    x, y = height / 2, width / 2
    return np.array([[-x, -y], [x, -y], [x, y], [-x, y]])


def regular(diameter: float, corners: int) -> Array:
    """Regular polygon of the same area as the circle of `diameter`."""
    step = 2 * math.pi / corners
    radius = diameter / 2 * math.sqrt(step / math.sin(step))
    angles = step * (np.arange(corners) + 0.5)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def offset(polygon: Array, distance: float) -> Array:
    """Move every side outwards by `distance` (inwards if negative)."""
    sides = np.roll(polygon, -1, axis=0) - polygon
    normals = outward_normals(polygon)
    shifted = polygon + normals * distance
    corners = []
    for index in range(len(polygon)):
        a, b = shifted[index - 1], shifted[index]
        u, v = sides[index - 1], sides[index]
        s = ((b - a)[0] * v[1] - (b - a)[1] * v[0]) / (u[0] * v[1] - u[1] * v[0])
        corners.append(a + s * u)
    return np.array(corners)


def outward_normals(polygon: Array) -> Array:
    """Unit normals (n, 2) of the sides k -> k+1."""
    sides = np.roll(polygon, -1, axis=0) - polygon
    normals = np.stack([sides[:, 1], -sides[:, 0]], axis=1)
    return np.asarray(normals / np.linalg.norm(normals, axis=1, keepdims=True), dtype=np.float64)


def along_rays(polygon: Array, angles: Array) -> Array:
    """Points (k, 2) where rays from the origin at `angles` leave a convex polygon around the origin."""
    normals = outward_normals(polygon)
    distances = np.sum(normals * polygon, axis=1)
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    slopes = directions @ normals.T
    reach = np.where(slopes > 1e-9, distances / np.maximum(slopes, 1e-9), np.inf).min(axis=1)
    return np.asarray(directions * reach[:, None], dtype=np.float64)


def corner_angles(*polygons: Array) -> Array:
    """Directions of all corners of the polygons, ascending, each once."""
    points = np.concatenate(polygons)
    return np.unique(np.round(np.arctan2(points[:, 1], points[:, 0]), 9))


def is_convex(polygon: Array) -> bool:
    """Whether the corners turn left everywhere."""
    sides = np.roll(polygon, -1, axis=0) - polygon
    following = np.roll(sides, -1, axis=0)
    return bool(np.all(sides[:, 0] * following[:, 1] - sides[:, 1] * following[:, 0] > 0))
