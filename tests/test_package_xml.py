"""package.xml of every package names what its sources import, and setup.py says the same about the package."""

from __future__ import annotations

import ast
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = sorted(path.parent for path in ROOT.glob("src/*/setup.py"))
MAINTAINER = "rldg-maintainers@users.noreply.github.com"

KEYS = {
    "PIL": "python3-pil",
    "cv2": "python3-opencv",
    "huggingface_hub": "python3-huggingface-hub-pip",
    "hypothesis": "python3-hypothesis",
    "matplotlib": "python3-matplotlib",
    "msgpack": "python3-msgpack",
    "mujoco": "python3-mujoco-pip",
    "numpy": "python3-numpy",
    "psutil": "python3-psutil",
    "pydantic": "python3-pydantic",
    "pydantic_core": "python3-pydantic",
    "pytest": "python3-pytest",
    "rich": "python3-rich",
    "rosbags": "python3-rosbags-pip",
    "scipy": "python3-scipy",
    "torch": "python3-torch",
    "transformers": "python3-transformers-pip",
    "typer": "python3-typer",
    "typing_extensions": "python3-typing-extensions",
    "yaml": "python3-yaml",
}
"""Import name -> rosdep key (ros/rosdistro, rosdep/python.yaml). ROS packages are their own keys."""

WITHOUT_KEY = {
    "accelerate": "accelerate",
    "annotated_types": "annotated-types",
    "blake3": "blake3",
    "flax": "flax",
    "google": "protobuf",
    "google_crc32c": "google-crc32c",
    "gymnasium": "gymnasium",
    "h11": "h11",
    "imageio_ffmpeg": "imageio-ffmpeg",
    "jax": "jax",
    "json_numpy": "json-numpy",
    "lz4": "lz4",
    "mcap": "mcap",
    "optax": "optax",
    "orbax": "orbax-checkpoint",
    "peft": "peft",
    "pyarrow": "pyarrow",
    "safetensors": "safetensors",
    "tensorboard": "tensorboard",
    "tensorstore": "tensorstore",
    "tokenizers": "tokenizers",
    "zstandard": "zstandard",
}
"""Import name -> distribution: rosdep knows no key for these, requirements/ installs them."""


NOT_RELEASED = {"franka_msgs": "franka_ros2"}
"""Import name -> repository in franka.repos: not in the distribution, so rosdep would refuse the key. Imported only
where the mode `actions` of the gripper needs it."""

OTHER_ENVIRONMENT = {"make_octo.py", "make_openvla.py"}
"""Scripts that make the golden references with the original classes, in environments of their own."""


def imports(files: Iterable[Path]) -> set[str]:
    """Return the top-level names that the files import, without those of the standard library."""
    found = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names)


def needed(package: Path) -> tuple[set[str], set[str]]:
    """Return the keys that package.xml must name for the sources, and for the tests beyond them."""
    scripts = [path for path in (package / "test").rglob("*.py") if path.name not in OTHER_ENVIRONMENT]
    helpers = {name for path in scripts for name in (path.stem, path.parent.name)} | {package.name}
    helpers |= {path.stem for path in ROOT.glob("src/*/test/*.py")}
    sources = imports((package / package.name).rglob("*.py")) - {package.name}
    tests = imports(scripts) - helpers - sources
    if package.name == "rldg_bringup":  # installs the launch files at the top
        sources |= imports((ROOT / "launch").glob("*.py")) - {package.name}
    return keys(sources), keys(tests)


def keys(names: set[str]) -> set[str]:
    """Return the rosdep keys of import names, without those of names that rosdep does not know."""
    return {KEYS.get(name, name) for name in names if name not in WITHOUT_KEY and name not in NOT_RELEASED}


def named(package: Path, *tags: str) -> set[str]:
    """Return what package.xml names under the given tags."""
    root = ElementTree.parse(package / "package.xml").getroot()
    return {str(element.text) for tag in tags for element in root.findall(tag)}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_package_xml_names_all_imports(package: Path) -> None:
    sources, tests = needed(package)
    assert named(package, "exec_depend", "depend") == sources
    assert named(package, "test_depend") == tests - sources


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_setup_py_equals_package_xml(package: Path) -> None:
    root = ElementTree.parse(package / "package.xml").getroot()
    (call,) = [
        node
        for node in ast.walk(ast.parse((package / "setup.py").read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup"
    ]
    arguments = {k.arg: k.value.value for k in call.keywords if isinstance(k.value, ast.Constant)}
    for tag in ("version", "license", "description"):
        assert arguments[tag] == str(root.findtext(tag)), tag
    assert arguments["maintainer_email"] == root.find("maintainer").attrib["email"] == MAINTAINER  # type: ignore[union-attr]


def test_imports_without_a_key_are_installed_by_the_requirements() -> None:
    pinned = " ".join(path.read_text() for path in (ROOT / "requirements").glob("*.txt")).lower()
    for distribution in WITHOUT_KEY.values():
        assert f"{distribution}==" in pinned.replace("_", "-"), distribution


def test_franka_repos_pins_every_driver() -> None:
    repositories = yaml.safe_load((ROOT / "franka.repos").read_text())["repositories"]
    assert set(NOT_RELEASED.values()) <= set(repositories)
    for name, repository in repositories.items():
        pinned = re.fullmatch(r"[0-9a-f]{40}|v?\d+\.\d+\.\d+", str(repository["version"]))
        assert pinned, f"{name}: {repository['version']} is a branch, expected a tag or a commit"


def test_tables_have_no_unused_entry() -> None:
    used = set().union(*(imports(package.rglob("*.py")) for package in PACKAGES)) | {"gymnasium"}
    assert set(KEYS) | set(WITHOUT_KEY) | set(NOT_RELEASED) <= used
    assert not set(KEYS) & set(WITHOUT_KEY)
