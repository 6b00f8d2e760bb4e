"""scripts/env.sh can be sourced by a script of any strictness, and leaves it as it was."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("flags", ["", "e", "u", "eu"])
def test_a_script_stays_as_strict_as_it_was(flags: str) -> None:
    script = f"set -{flags}h; before=$-; source scripts/env.sh; [[ $- == $before ]]; command -v rldg"
    # As in a fresh shell: what this session has sourced is not there.
    env = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == str(ROOT / ".venv/bin/rldg")
