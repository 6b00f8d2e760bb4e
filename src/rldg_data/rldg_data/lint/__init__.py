"""Find errors and suspicious data in a dataset or in a folder of bags."""

from rldg_data.lint.findings import Finding, Limits
from rldg_data.lint.run import lint, lint_episodes

__all__ = ["Finding", "Limits", "lint", "lint_episodes"]
