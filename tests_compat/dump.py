"""Write a dataset, as our own reader sees it, as plain npz files: dump.py DATASET OUT. Runs in .venv.

OUT/<split>_<number>.npz: every array of an episode, metadata as JSON text, and jpeg_<key> (bytes of all images, one
after the other) with jpeg_<key>_sizes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from rldg_data.rlds import read_dataset


def main(dataset: Path, out: Path) -> None:
    source = read_dataset(dataset)
    out.mkdir(parents=True)
    for split in source.splits:
        for number, episode in enumerate(source.episodes(split)):
            images = {}
            for key, files in episode.images.items():
                images[f"jpeg_{key}"] = np.frombuffer(b"".join(files), np.uint8)
                images[f"jpeg_{key}_sizes"] = np.array([len(data) for data in files])
            np.savez(
                out / f"{split}_{number:05d}.npz",
                timestamp=episode.timestamp_s,
                state=episode.state,
                twist=episode.twist,
                wrench=episode.wrench,
                action=episode.action,
                reward=episode.reward,
                is_first=episode.is_first,
                is_last=episode.is_last,
                is_terminal=episode.is_terminal,
                language_instruction=np.array(episode.instruction),
                metadata=np.array(json.dumps(dict(episode.metadata))),
                **images,
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
