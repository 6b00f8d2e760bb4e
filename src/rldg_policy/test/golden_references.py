"""Small checkpoints and outputs of the original OpenVLA and Octo, where they are at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

_GOLDEN = Path(__file__).parents[4] / "shared" / "golden"
OPENVLA_GOLDEN, OCTO_GOLDEN = _GOLDEN / "openvla_tiny", _GOLDEN / "octo_tiny"
needs_golden = pytest.mark.skipif(not _GOLDEN.is_dir(), reason="golden references are not at hand")
