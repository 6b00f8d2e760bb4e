"""Fine-tunes as octo_train_samples defines, and is killed by SIGKILL within its second save.

    octo_killed_training.py DATASET BASE OUT state|moved

state: half of the training state is written; moved: new weights are in place, but the manifest names the old ones.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from octo_train_samples import CONFIG, SEED

from rldg_policy.octo import train, training_state


def at_the_second(call, then_die=lambda *_: None):
    """Return `call` that, the second time, then calls `then_die` with its arguments and is killed by SIGKILL."""
    calls = []

    def counted(*arguments, **options):
        call(*arguments, **options)
        calls.append(arguments)
        if len(calls) == 2:
            then_die(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)

    return counted


def kill_at(point: str) -> None:
    if point == "state":
        training_state.save_file = at_the_second(
            training_state.save_file, lambda _, path: os.truncate(path, path.stat().st_size // 2)
        )
    elif point == "moved":
        os.rename = at_the_second(os.rename)
    else:
        raise SystemExit(f"no point {point!r}")


if __name__ == "__main__":
    dataset, base, out = (Path(name) for name in sys.argv[1:4])
    kill_at(sys.argv[4])
    train.finetune(dataset, out, CONFIG, base=base, seed=SEED)
