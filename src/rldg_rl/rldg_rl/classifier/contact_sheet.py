"""An image of the frames with the largest errors of a classifier, for inspection."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from rldg_rl.classifier.calibration import Bool, Float
from rldg_rl.classifier.features import frame_image
from rldg_rl.classifier.frames import Frame
from rldg_rl.encoders.frozen import IMAGE_SIZE

COLUMNS, ROWS = 8, 3
_TEXT_PX = 26
_RED, _GREY = (200, 30, 30), (90, 90, 90)


def contact_sheet(frames: Sequence[Frame], probabilities: Float, threshold: float) -> bytes:
    """Return a PNG: failures with the highest probability above, successes with the lowest below, errors in red."""
    labels = np.array([f.success for f in frames], bool)
    sheet = Image.new("RGB", (COLUMNS * IMAGE_SIZE, 2 * ROWS * (IMAGE_SIZE + _TEXT_PX)), "white")
    draw = ImageDraw.Draw(sheet)
    for part, wanted in enumerate((False, True)):
        for place, index in enumerate(_worst(probabilities, labels, wanted)):
            frame, probability = frames[index], probabilities[index]
            x, y = place % COLUMNS * IMAGE_SIZE, (part * ROWS + place // COLUMNS) * (IMAGE_SIZE + _TEXT_PX)
            sheet.paste(Image.fromarray(frame_image(frame)), (x, y + _TEXT_PX))
            wrong = (probability > threshold) != wanted
            text = f"{'success' if wanted else 'failure'} p={probability:.3f}\n{frame.episode_id[-20:]}"
            draw.text((x + 2, y), text, fill=_RED if wrong else _GREY)
    png = io.BytesIO()
    sheet.save(png, format="PNG")
    return png.getvalue()


def _worst(probabilities: Float, labels: Bool, wanted: bool) -> list[int]:
    indices = np.flatnonzero(labels == wanted)
    order = np.argsort(probabilities[indices] if wanted else -probabilities[indices], kind="stable")
    return [int(i) for i in indices[order][: COLUMNS * ROWS]]
