"""The layers are enforced: lint-imports fails on an import that breaks a contract, and names it.

Works on a copy of the tree; import-linter reads source, so nothing heavy is imported.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Copy pyproject.toml and the packages' Python sources."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in (ROOT / "src").glob("rldg_*/rldg_*"):
        if package.name == package.parent.name:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(package, tmp_path / "src" / package.name / package.name, ignore=ignored)
    return tmp_path


def lint_imports(tree: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(str(source) for source in (tree / "src").iterdir())
    return subprocess.run(
        ["lint-imports", "--no-cache"],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )


def test_sources_keep_the_layers(tree: Path) -> None:
    result = lint_imports(tree)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("rldg_core/__init__.py", "rclpy"),
        ("rldg_core/__init__.py", "rldg_msgs"),
        ("rldg_ros/__init__.py", "rldg_sim"),
        ("rldg_sim/__init__.py", "rldg_data"),
        ("rldg_control/__init__.py", "rldg_rl"),
        ("rldg_data/__init__.py", "rclpy"),
        ("rldg_rl/__init__.py", "rldg_ros.qos"),
        ("rldg_policy/__init__.py", "rldg_policy.nodes"),
        ("rldg_bringup/__init__.py", "rclpy"),
    ],
)
def test_forbidden_import_is_found(tree: Path, module: str, imported: str) -> None:
    path = tree / "src" / Path(module).parent / module
    path.write_text(f"{path.read_text()}\nimport {imported}\n")
    result = lint_imports(tree)
    assert result.returncode == 1, result.stdout + result.stderr
    assert f"{Path(module).parent} -> {imported}" in result.stdout
