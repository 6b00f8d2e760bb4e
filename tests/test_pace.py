"""Real time or lock-step is decided in pace modules only; elsewhere a node asks its pace.

Reads the source of every package. Names: `lockstep` is the parameter of the nodes, `use_sim_time` the argument of the
stacks, `real_time` and `lock_step` are the names of the two paces of `rldg_ros.pace`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

DECLARATIONS = {"rldg_ros/pace.py", "rldg_bringup/pace.py"}
"""The only modules whose code says `lockstep`: the parameter's declaration, and what the stacks set it to."""

SWITCH = re.compile("lockstep|Lockstep|LOCKSTEP")

NAMES = {"real_time", "lock_step"}


def modules() -> dict[str, Path]:
    """Return every module of the packages by its name in the package folder, e.g. rldg_ros/pace.py."""
    packages = (ROOT / "src").glob("rldg_*/rldg_*/")
    return {str(p.relative_to(folder.parent)): p for folder in packages for p in sorted(folder.rglob("*.py"))}


def docstrings(tree: ast.AST) -> set[ast.Constant]:
    """Return the strings that are statements."""
    return {n.value for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)}


def words(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and text of each identifier and string in the code, without docstrings and comments."""
    skipped = docstrings(tree)
    for node in ast.walk(tree):
        texts = [value for _, value in ast.iter_fields(node) if isinstance(value, str)] if node not in skipped else []
        yield from ((getattr(node, "lineno", 0), text) for text in texts)


def conditions(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield comparisons and tested expressions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            yield node
        elif isinstance(node, ast.If | ast.IfExp | ast.While | ast.Assert):
            yield node.test
        elif isinstance(node, ast.BoolOp):
            yield from node.values
        elif isinstance(node, ast.UnaryOp | ast.match_case):
            yield node


def decisions(source: str, declares: bool) -> list[str]:
    """Return one line for each place that decides by the pace outside a table of rules."""
    tree = ast.parse(source)
    found = [f"{line}: {text}" for line, text in words(tree) if SWITCH.search(text) and not declares]
    for condition in conditions(tree):
        names = {n.value for n in ast.walk(condition) if isinstance(n, ast.Constant)} & NAMES
        found += [f"{getattr(condition, 'lineno', 0)}: decides by {name!r}" for name in names]
    for table in (n for n in ast.walk(tree) if isinstance(n, ast.Dict)):
        keys = {key.value for key in table.keys if isinstance(key, ast.Constant)}
        if keys & NAMES and keys != NAMES:
            found.append(f"{table.lineno}: a table for {keys & NAMES} only")
    return found


def test_no_module_decides_by_the_pace() -> None:
    found = {name: decisions(path.read_text(), name in DECLARATIONS) for name, path in modules().items()}
    assert found.keys() >= DECLARATIONS
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    [
        "if self._lockstep: x()",
        "value = 1 if node.get_parameter('lockstep').value else 2",
        "def f(lockstep: bool) -> None: ...",
        "f(is_lockstep=True)",
        "if pace.name == 'lock_step': x()",
        "late = pace.name != 'real_time' and x",
        "x = pace.name in ('lock_step',)",
        "match name:\n    case 'lock_step': x()",
        "RULES = {'lock_step': 1}",
        "from x import LockstepRules",
    ],
)
def test_decision_is_found(source: str) -> None:
    assert decisions(source, declares=False)


def test_tables_docstrings_and_names_are_not_decisions() -> None:
    source = '''"""Parameters: lockstep."""
RULES = {"real_time": 1, "lock_step": 2}
class LockStep:
    """In lockstep."""
    name = "lock_step"
value = RULES[pace.name]
'''
    assert decisions(source, declares=False) == []
