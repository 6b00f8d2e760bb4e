"""Choice of the off-screen OpenGL back-end."""

from __future__ import annotations

import ctypes.util
import os

from rldg_core.errors import UserError

NO_GL = "no off-screen OpenGL for camera images: apt-get install libegl1 libgles2 libgl1-mesa-dri and set MUJOCO_GL=egl"


def choose_backend() -> None:
    """Set MUJOCO_GL (egl, or osmesa where only that is installed) unless the user has chosen."""
    if not os.environ.get("MUJOCO_GL"):
        egl = ctypes.util.find_library("EGL") or not ctypes.util.find_library("OSMesa")
        os.environ["MUJOCO_GL"] = "egl" if egl else "osmesa"
    # Mesa's software renderer: for images this small, distributing tiles to threads costs more than it saves.
    os.environ.setdefault("LP_NUM_THREADS", "0")


def no_gl_error(cause: BaseException) -> UserError:
    """Return the error that says how to install OpenGL."""
    return UserError(f"{NO_GL} ({type(cause).__name__}: {' '.join(str(cause).split())[:120]})")
