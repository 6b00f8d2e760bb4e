"""Makes rl_samples importable: pytest's importlib mode leaves the test folder off the path."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
