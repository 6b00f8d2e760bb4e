"""Collects labelled frames: positive while the operator holds the success button, negative otherwise."""

from __future__ import annotations

from collections import deque
from pathlib import Path

from rldg_rl.classifier.frames import Frame, write_frame


class Collector:
    """Writes frames, labelled by the state of a button, into a folder.

    An operator presses the button some frames after success and releases it at about the time success ends: `margin`
    frames before a press and after a release are left out. Each press and each release (and each episode of the stack)
    begins an episode for the held-out split.
    """

    def __init__(self, folder: Path, session: str, margin: int = 5) -> None:
        self._folder, self._session, self._margin = folder, session, margin
        self._waiting: deque[Frame] = deque()
        self._segment = self._skipped = 0
        self._pressed = False
        self.positive = self.negative = 0

    def take(self, stamp_ns: int, jpeg: bytes, pressed: bool, episode_id: str, object_name: str = "") -> None:
        """Add a frame. episode_id: of the running episode, or "" between episodes."""
        if pressed and not self._pressed:
            self._waiting.clear()
        if self._pressed and not pressed:
            self._segment, self._skipped = self._segment + 1, 0
        self._pressed = pressed
        name = f"{self._session}-{self._segment:04d}{f'-{episode_id}' if episode_id else ''}"
        frame = Frame(name, stamp_ns, jpeg, pressed, object_name, name)
        if pressed:
            self._write(frame)
        elif self._segment and self._skipped < self._margin:
            self._skipped += 1
        else:
            self._waiting.append(frame)
            if len(self._waiting) > self._margin:
                self._write(self._waiting.popleft())

    def close(self) -> None:
        """Write the frames that are still held back."""
        while self._waiting:
            self._write(self._waiting.popleft())

    def _write(self, frame: Frame) -> None:
        write_frame(self._folder, frame)
        self.positive += frame.success
        self.negative += not frame.success
