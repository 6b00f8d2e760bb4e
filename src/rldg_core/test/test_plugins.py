"""Plug-ins of every group: found by name, and refused when two distributions register the same name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rldg_core import registry, scenes
from rldg_core.errors import UserError
from rldg_core.plugins import Plugins


def install(site: Path, distribution: str, group: str, entries: str) -> None:
    """Write what pip writes for a distribution that registers entry points."""
    info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{entries}\n")


@pytest.fixture
def sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Return two folders on sys.path."""
    folders = tmp_path / "one", tmp_path / "two"
    for folder in folders:
        folder.mkdir()
        monkeypatch.syspath_prepend(folder)
    return folders


@pytest.mark.parametrize(
    ("group", "what", "find"),
    [
        ("rldg.scenes", "scene kind", scenes.scene_class),
        ("rldg.policies", "policy back-end", registry.factory),
        ("rldg.policies", "policy back-end", registry.check_backend),
        ("rldg.things", "thing", Plugins("rldg.things", "thing").load),
    ],
)
@pytest.mark.parametrize("second", ["json:loads", "pathlib:Path"])
def test_name_registered_by_two_distributions_is_refused_with_both(
    sites: tuple[Path, Path], group: str, what: str, find: Callable[[str], object], second: str
) -> None:
    """The order of sys.path does not matter, nor whether both refer to the same object."""
    install(sites[0], "lab-a", group, "mine = json:loads\nother = json:dumps")
    install(sites[1], "lab-b", group, f"mine = {second}")
    with pytest.raises(UserError) as caught:
        find("mine")
    assert str(caught.value) == (
        f"{what} 'mine': registered by lab-a (json:loads) and lab-b ({second}), expected one distribution: uninstall "
        f"the other, or rename its entry point in group {group}"
    )


def test_other_names_are_found_beside_a_conflict(sites: tuple[Path, Path]) -> None:
    things = Plugins("rldg.things", "thing", hidden=("default",))
    install(sites[0], "lab-a", "rldg.things", "mine = json:loads\nother = json:dumps\ndefault = json:load")
    install(sites[1], "lab-b", "rldg.things", "mine = json:loads")
    assert things.names() == ["mine", "other"]
    assert things.load("other").__name__ == "dumps" and things.load("default").__name__ == "load"
    with pytest.raises(UserError, match=r"^unknown thing 'others', expected one of mine, other$"):
        things.load("others")


def test_distribution_found_in_two_folders_counts_once(sites: tuple[Path, Path]) -> None:
    """For example a workspace installed over an older one; the first folder on sys.path is used, as in an import."""
    install(sites[0], "lab-a", "rldg.things", "mine = json:loads")
    install(sites[1], "lab-a", "rldg.things", "mine = json:dumps")
    assert Plugins("rldg.things", "thing").load("mine").__name__ == "dumps"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("nowhere_at_all:x", "cannot be imported: ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("json:nothing", "cannot be imported: AttributeError: module 'json' has no attribute 'nothing'"),
    ],
)
def test_plugin_that_cannot_be_imported_is_refused(sites: tuple[Path, Path], value: str, reason: str) -> None:
    install(sites[0], "lab-a", "rldg.things", f"mine = {value}")
    with pytest.raises(UserError) as caught:
        Plugins("rldg.things", "thing").load("mine")
    assert str(caught.value) == f"thing 'mine' ({value}) {reason}"
