"""Write and read video with the ffmpeg of imageio-ffmpeg: h264 streams, mp4 files, frame-exact reading.

h264, yuv420p: every player, PyAV and torchcodec decode it. Each episode is a stream of its own that begins with a key
frame and has no B-frames, so that streams of different workers can be concatenated and the n-th frame of a file is
at n / fps. With one thread the bytes depend only on the frames and the version of ffmpeg.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO

import imageio_ffmpeg
import numpy as np

from rldg_core.errors import UserError
from rldg_core.image_codec import Image
from rldg_core.image_header import MAX_PIXELS

CRF = 14
"""Constant rate factor. Measured on 606 frames of 256 px of the simulated wrist camera: 43.8 dB on average, 41.4 dB at
least, half the bytes of the JPEG files; 4:2:0 alone (lossless otherwise) gives 44.8 dB."""
GOP = 2
"""Every second frame is a key frame, as lerobot writes it: training reads frames in random order."""
PRESET = "veryfast"
_TO_YUV = "scale=out_color_matrix=bt601:out_range=tv:flags=accurate_rnd+full_chroma_int,format=yuv420p"
_ENCODER = (
    f"-c:v libx264 -preset {PRESET} -crf {CRF} -g {GOP} -bf 0 -pix_fmt yuv420p -threads 1 "
    "-x264-params threads=1:lookahead-threads=1:scenecut=0:aud=1 "
    "-colorspace smpte170m -color_primaries smpte170m -color_trc smpte170m -color_range tv"
).split()


def encode_h264(path: Path, frames: Iterable[Image], height: int, width: int, fps: int) -> None:
    """Write frames (height, width, 3) uint8 RGB as a raw h264 stream. Raises UserError when ffmpeg fails.

    height and width must be even: chroma has half the resolution.
    """
    source = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -framerate {fps} -i -".split()
    with _ffmpeg(path, *source, "-vf", _TO_YUV, *_ENCODER, "-f", "h264", f"file:{path}") as process:
        assert process.stdin
        # The error of the ended process is more useful than that of the write.
        with suppress(BrokenPipeError):
            for frame in frames:
                process.stdin.write(np.ascontiguousarray(frame).data)


def mux_mp4(h264: Path, mp4: Path, fps: int) -> None:
    """Put a raw h264 stream without B-frames into an mp4 file: frame n at n / fps."""
    copy = f"-c copy -video_track_timescale {fps * 1024} -fflags +bitexact -movflags +faststart -f mp4".split()
    with _ffmpeg(mp4, "-f", "h264", "-framerate", str(fps), "-i", f"file:{h264}", *copy, f"file:{mp4}"):
        pass


class FrameReader:
    """Frames of a video file in order; seeking back restarts. Holds one frame in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        self._process: subprocess.Popen[bytes] | None = None
        self._position = 0

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End ffmpeg."""
        self._stop()
        self._errors.close()

    def frames(self, start: int, count: int) -> Iterator[Image]:
        """Yield frames start .. start + count - 1, (H, W, 3) uint8 RGB. Raises UserError on a damaged or short file."""
        if not self._process or self._position > start:
            self._restart()
        while self._position < start:
            self._next()
        for _ in range(count):
            yield self._next()

    def _next(self) -> Image:
        process = self._process
        assert process and process.stdout
        # Binary PPM: P6, width height, 255, pixels; so the stream contains the size of its frames.
        header = [process.stdout.readline() for _ in range(3)]
        try:
            magic, (width, height), depth = header[0].strip(), map(int, header[1].split()), header[2].strip()
            if width * height > MAX_PIXELS:
                raise ValueError
            pixels = process.stdout.read(width * height * 3)
            if magic != b"P6" or depth != b"255" or len(pixels) != width * height * 3:
                raise ValueError
        except ValueError as error:
            raise UserError(f"{self.path}: frame {self._position}: {self._reason()}") from error
        self._position += 1
        return np.frombuffer(pixels, dtype=np.uint8).reshape(height, width, 3)

    def _reason(self) -> str:
        self._stop()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"damaged: {said[0]}" if said else "the video has no more frames"

    def _restart(self) -> None:
        self._stop()
        self._errors.seek(0)
        self._errors.truncate()
        self._position = 0
        # The size is in the file headers: nothing is decoded beyond the limit.
        source = [
            "-max_pixels",
            str(MAX_PIXELS),
            "-xerror",
            "-err_detect",
            "explode",
            "-threads",
            "1",
            "-i",
            f"file:{self.path}",
            "-map",
            "0:v:0",
        ]
        sink = [
            "-fps_mode",
            "passthrough",
            "-sws_flags",
            "accurate_rnd+full_chroma_int",
            "-f",
            "image2pipe",
            "-c:v",
            "ppm",
            "-",
        ]
        self._process = subprocess.Popen(
            _command(*source, *sink), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._errors
        )

    def _stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _command(*arguments: str) -> list[str]:
    return [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostats", "-loglevel", "error", "-y", *arguments]


@contextmanager
def _ffmpeg(path: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run ffmpeg; its standard input is closed at the end of the block, which waits for it."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            _command(*arguments), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors
        )
        try:
            yield process
        except BaseException:
            process.kill()
            raise
        finally:
            assert process.stdin
            with suppress(BrokenPipeError):
                process.stdin.close()
            status = process.wait()
        if status:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines()
            raise UserError(f"{path}: ffmpeg cannot write the video: {said[0] if said else f'status {status}'}")
