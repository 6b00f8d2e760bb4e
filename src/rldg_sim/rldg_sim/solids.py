"""Closed surfaces that are drawn: points (n, 3) [m] and triangles, counter-clockwise from outside."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rldg_sim.mjcf import numbers

Array = NDArray[np.float64]
Faces = list[tuple[int, int, int]]
Solid = tuple[Array, Faces]


def loft(loops: Sequence[Array]) -> Solid:
    """Solid through convex loops of equally many corners (n, 3), closed at both ends."""
    count = len(loops[0])
    last = (len(loops) - 1) * count
    faces: Faces = []
    for level in range(len(loops) - 1):
        for k in range(count):
            a, b = level * count + k, level * count + (k + 1) % count
            faces += [(a, b, b + count), (a, b + count, a + count)]
    for k in range(1, count - 1):
        faces += [(0, k + 1, k), (last, last + k, last + k + 1)]
    vertices = np.concatenate(loops)
    first, second, third = (vertices[[face[k] for face in faces]] for k in range(3))
    if float(np.sum(first * np.cross(second, third))) < 0.0:  # six times the volume
        faces = [(a, c, b) for a, b, c in faces]
    return vertices, faces


def joined(solids: Sequence[Solid]) -> Solid:
    """Several solids as one, so that they are drawn at once."""
    faces: Faces = []
    first = 0
    for vertices, own in solids:
        faces += [(a + first, b + first, c + first) for a, b, c in own]
        first += len(vertices)
    return np.concatenate([vertices for vertices, _ in solids]), faces


def smooth_mesh(name: str, solid: Solid) -> str:
    """Mesh asset that is shaded as if it were curved."""
    vertices, faces = solid
    text = " ".join(str(index) for face in faces for index in face)
    return f'<mesh name="{name}" inertia="shell" vertex="{numbers(vertices)}" face="{text}"/>'
