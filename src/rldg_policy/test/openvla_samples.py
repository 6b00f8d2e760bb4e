"""What OpenVLA's tests share: the golden reference and tiny models with random weights."""

from __future__ import annotations

from pathlib import Path

import pytest

GOLDEN = Path(__file__).parents[4] / "shared" / "golden" / "openvla_tiny"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="golden references are not at hand")
