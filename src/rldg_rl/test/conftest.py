"""Makes rl_samples importable (pytest's importlib mode leaves the test folder off the path); compiles once."""

from __future__ import annotations

import sys
from pathlib import Path

from rldg_core.jax_runtime import cache_compilations

sys.path.insert(0, str(Path(__file__).parent))
cache_compilations()
