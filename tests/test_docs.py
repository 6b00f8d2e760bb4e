"""The YAML examples of docs/reference/data.md are what the commands take."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rldg_data.foreign.mapping import load_mapping
from rldg_data.lerobot.names import load_feature_names
from rldg_data.recipe.recipe import load_recipe

TEXT = (Path(__file__).resolve().parents[1] / "docs/reference/data.md").read_text()
EXAMPLES = re.findall(r"```yaml\n# (\w+)\n(.*?)```", TEXT, re.DOTALL)
LOADERS = {"mapping": load_mapping, "recipe": load_recipe, "names": load_feature_names}


def test_every_example_is_found() -> None:
    assert sorted({kind for kind, _ in EXAMPLES}) == sorted(LOADERS)
    assert len(EXAMPLES) == TEXT.count("```yaml")


@pytest.mark.parametrize(("kind", "text"), EXAMPLES)
def test_an_example_is_valid(kind: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "example.yaml"
    path.write_text(text)
    LOADERS[kind](path)
