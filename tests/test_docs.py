"""The documents: their YAML examples load, their links exist, and they use the words of the glossary."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from rldg_data.external.mapping import load_mapping
from rldg_data.lerobot.components import load_feature_names
from rldg_data.recipe.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    path
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
    if "generated" not in path.relative_to(ROOT).parts
)
SOURCES = sorted(
    path
    for folder in ("src", "tests", "tests_compat", "benchmarks", "launch", "docs")
    for path in (ROOT / folder).rglob("*.py")
    if path != Path(__file__)
)
EXAMPLES = [
    pytest.param(kind, text, id=f"{path.stem}-{kind}-{i}")
    for path in DOCUMENTS
    for i, (kind, text) in enumerate(
        re.findall(r"```yaml\n# (mapping|recipe|names)\n(.*?)```", path.read_text(), re.DOTALL)
    )
]
LOADERS = {"mapping": load_mapping, "recipe": load_recipe, "names": load_feature_names}
GLOSSARY = ROOT / "docs/reference/glossary.md"
FORBIDDEN = yaml.safe_load((ROOT / "docs/reference/forbidden_words.yaml").read_text())
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")


# --- examples -----------------------------------------------------------------------------------


def test_every_kind_of_example_is_found() -> None:
    assert {str(example.values[0]) for example in EXAMPLES} == set(LOADERS)


@pytest.mark.parametrize(("kind", "text"), EXAMPLES)
def test_yaml_example_is_valid(kind: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "example.yaml"
    path.write_text(text)
    LOADERS[kind](path)


# --- links --------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """Return the anchors of a document's headings, as GitHub and MyST make them."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(path: Path) -> None:
    for target, anchor in LINK.findall(path.read_text()):
        if re.match(r"[a-z]+:", target) or "generated/" in target:
            continue
        found = (path.parent / target).resolve() if target else path
        assert found.exists(), f"{path.relative_to(ROOT)}: {target} does not exist"
        if anchor and found.suffix == ".md":
            assert anchor in anchors(found.read_text()), f"{path.relative_to(ROOT)}: no heading #{anchor} in {target}"


def test_documents_named_in_the_sources_exist() -> None:
    names = re.compile(r"docs/[\w/-]+\.(?:md|png|gif)")
    for path in (*SOURCES, *(ROOT / "scripts").iterdir(), *(ROOT / "src").rglob("*.yaml"), ROOT / "Makefile"):
        for name in names.findall(path.read_text()):
            assert "generated" in name or (ROOT / name).exists(), f"{path.relative_to(ROOT)}: {name} does not exist"


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


# --- words --------------------------------------------------------------------------------------


def prose(markdown: str) -> str:
    """Return a document without code blocks and code spans; lines keep their numbers."""

    def blank(match: re.Match[str]) -> str:
        return "\n" * match[0].count("\n")

    text = re.sub(r"^```.*?^```", blank, markdown, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^(?: {4}|\t).*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    return re.sub(r"`[^`\n]*`", "", text)


def python_texts(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of docstrings, comments, strings with a space and names of tests, without code spans."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield node.lineno, node.name.replace("_", " ")
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, re.sub(r"`[^`\n]*`", "", node.value)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], re.sub(r"`[^`\n]*`", "", token.string)


def forbidden_in(text: str, entries: list[dict[str, object]], first_line: int = 1) -> list[str]:
    """Return one line for each forbidden word of a text."""
    found = []
    for entry in entries:
        words = "|".join(entry["words"])  # type: ignore[arg-type]
        for match in re.finditer(rf"(?<![\w/.-])(?:{words})(?![\w/-])", text, re.IGNORECASE):
            line = first_line + text.count("\n", 0, match.start())
            found.append(f"{line}: {match[0]!r}, expected {entry.get('use') or entry['write']!r}")
    return found


def test_every_recommended_word_is_in_the_glossary() -> None:
    terms = re.findall(r"\*\*(.+?)\*\*", GLOSSARY.read_text())
    assert len(terms) == len(set(terms)), "the glossary has a term twice"
    assert {entry["use"] for entry in FORBIDDEN if "use" in entry} <= set(terms)
    assert all(("use" in entry) != ("write" in entry) for entry in FORBIDDEN)


def test_lint_finds_forbidden_words() -> None:
    text = "One\n\nfloors, `floors`, floors_below and time-\nstamps: a time stamp.\n\n    floors\n```\nfloors\n```\n"
    assert [line.split(",")[0] for line in forbidden_in(prose(text), FORBIDDEN)] == ["3: 'floors'", "4: 'time stamp'"]
    source = '"""Floors."""\nx = "a rosbag here"  # the teacher\nfloors = {"floors": x}\ndef test_verdict(): x\n'
    found = [line for start, text in python_texts(source) for line in forbidden_in(text, FORBIDDEN, start)]
    assert [line.split(",")[0] for line in found] == ["4: 'verdict'", "2: 'rosbag'", "2: 'teacher'"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_use_the_words_of_the_glossary(path: Path) -> None:
    found = forbidden_in(prose(path.read_text()), FORBIDDEN) if path != GLOSSARY else []
    assert not found, "\n".join(f"{path.relative_to(ROOT)}:{line}" for line in found)


def test_sources_use_the_words_of_the_glossary() -> None:
    entries = [entry for entry in FORBIDDEN if entry.get("also_code")]
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in SOURCES
        for start, text in python_texts(path.read_text())
        for line in forbidden_in(text, entries, start)
    ]
    assert not found, "\n".join(found)
