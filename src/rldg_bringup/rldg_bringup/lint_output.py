"""Print the findings of a lint as text or JSON and derive the exit code."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict

from rldg_bringup.cli_common import console
from rldg_data.lint import Finding


def report(path: str, findings: Iterable[Finding], as_json: bool) -> int:
    """Print each finding at once; return 1 if one is an error, else 0."""
    listed = []
    for finding in findings:
        listed.append(finding)
        if not as_json:
            print(finding, flush=True)
    counts = Counter(finding.severity for finding in listed)
    errors, warnings = counts["error"], counts["warning"]
    if as_json:
        print(json.dumps({"path": path, "errors": errors, "warnings": warnings, "findings": [*map(asdict, listed)]}))
    console.print(f"{path}: {errors} errors, {warnings} warnings", highlight=False, soft_wrap=True)
    return 1 if errors else 0
