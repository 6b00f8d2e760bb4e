"""What admits a plug in one orientation only, where its outline alone would not: USB-A and XLR.

Contact shapes are convex, so that plug and port have these parts beside their outlines; they touch each other only.
Not in the ideal cell. Sizes in mm, frames as in `port`.

  usb_a  The insulator in one half of the shell meets the receptacle's tongue in a half turn (USB 2.0, chapter 6).
         Its thickness is chosen so that the shell's clearance never lets them touch the right way round.
  xlr    A key of the plug meets a ring with one groove (IEC 61076-2-103 has a key and three pins). Its place and its
         play of 0.45 mm, which is 3.7 degrees, are our estimates.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from rldg_sim.mjcf import numbers
from rldg_sim.scenes.connector.connectors import MM, Connector

Array = NDArray[np.float64]

BEHIND_MOUTH_MM = 0.4
"""Depth at which the port's part begins: within every lead-in."""
_PLUG = 'contype="2" conaffinity="0"'
_PORT = 'contype="0" conaffinity="2"'
KEY_RADIUS_MM = 7.0
KEY_HALF_MM = 0.6
PLAY_MM = 0.45
SECTORS = 12


def _box(low_mm: tuple[float, float, float], high_mm: tuple[float, float, float], turn_rad: float, bits: str) -> str:
    """Box between two corners, turned about z."""
    low, high = MM * np.array(low_mm), MM * np.array(high_mm)
    middle, half = numbers((low + high) / 2), numbers((high - low) / 2)
    return f'<frame euler="0 0 {turn_rad:.9g}"><geom type="box" pos="{middle}" size="{half}" {bits}/></frame>'


def plug_key(item: Connector) -> str:
    """Contact geoms of the plug; z = 0 is its shoulder."""
    tip = item.depth_m / MM
    if item.name == "usb_a":
        return _box((-1.95, -5.6, 0.0), (-0.05, 5.6, tip), 0.0, _PLUG)
    if item.name == "xlr":
        inner, outer = KEY_RADIUS_MM - 0.5, KEY_RADIUS_MM + 0.5
        return _box((inner, -KEY_HALF_MM, 0.0), (outer, KEY_HALF_MM, tip), 0.0, _PLUG)
    return ""


def port_key(item: Connector) -> str:
    """Contact geoms of the port; z = 0 is the face of the housing."""
    top, bottom = BEHIND_MOUTH_MM, item.depth_m / MM + 2.0
    if item.name == "usb_a":
        return _box((0.35, -5.6, top), (1.95, 5.6, bottom), 0.0, _PORT)
    if item.name == "xlr":
        inner, outer = KEY_RADIUS_MM - 1.0, KEY_RADIUS_MM + 1.0
        half, side = outer * math.tan(math.pi / SECTORS), KEY_HALF_MM + PLAY_MM
        ring = [
            _box((inner, -half, top), (outer, half, bottom), 2.0 * math.pi * k / SECTORS, _PORT)
            for k in range(1, SECTORS)
        ]
        groove = [
            _box((inner, min(s * side, s * half), top), (outer, max(s * side, s * half), bottom), 0.0, _PORT)
            for s in (-1.0, 1.0)
        ]
        return "".join([*ring, *groove])
    return ""
