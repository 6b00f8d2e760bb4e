"""`rldg doctor`: its findings, a crash in a child process, and the exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rldg_bringup import doctor
from rldg_bringup.doctor import Finding, Status


def plug(devices: Path, name: str, vendor: str, product: str) -> None:
    (devices / name).mkdir()
    (devices / name / "idVendor").write_text(f"{vendor}\n")
    (devices / name / "idProduct").write_text(f"{product}\n")


def test_usb_devices_are_recognised_by_their_ids(tmp_path: Path) -> None:
    plug(tmp_path, "1-1", "8086", "0B5B")
    plug(tmp_path, "1-2", "046d", "c62b")
    camera, mouse = doctor.usb_findings(doctor.usb_identities(tmp_path))
    assert (camera.status, camera.found) == (Status.OK, "8086:0b5b")
    assert (mouse.status, mouse.found) == (Status.OK, "046d:c62b")


def test_other_devices_of_the_same_vendors_are_ignored(tmp_path: Path) -> None:
    plug(tmp_path, "1-1", "8086", "0026")  # an Intel Bluetooth radio
    plug(tmp_path, "1-2", "046d", "0825")  # a Logitech webcam
    findings = doctor.usb_findings(doctor.usb_identities(tmp_path))
    assert [finding.status for finding in findings] == [Status.NOTE, Status.NOTE]
    assert all(finding.remedy for finding in findings)


def test_missing_sysfs_gives_no_devices(tmp_path: Path) -> None:
    assert doctor.usb_identities(tmp_path / "absent") == []


def test_missing_ros_is_reported_with_the_remedy() -> None:
    findings = {f.subject: f for f in doctor.ros_findings({}, rclpy_present=False, messages_present=False)}
    assert findings["ROS 2"].status is Status.MISSING
    assert "make setup" in findings["ROS 2"].remedy
    assert findings["workspace"].status is Status.MISSING
    assert findings["network"].status is Status.OK  # nodes restrict themselves to this machine


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}, "ROS_AUTOMATIC_DISCOVERY_RANGE=SUBNET: other machines may join"),
        ({"ROS_STATIC_PEERS": "10.0.0.2"}, "ROS_STATIC_PEERS=10.0.0.2: other machines may join"),
        ({"RMW_IMPLEMENTATION": "rmw_zenoh_cpp"}, "RMW_IMPLEMENTATION=rmw_zenoh_cpp: other machines may join"),
    ],
)
def test_network_is_reported(environment: dict[str, str], found: str) -> None:
    finding = doctor.network_finding(environment)
    assert (finding.status, finding.found) == (Status.NOTE, found)
    assert "SROS2" in finding.remedy
    assert "SROS2" not in doctor.network_finding({**environment, "ROS_SECURITY_ENABLE": "true"}).remedy


def test_invalid_domain_is_missing() -> None:
    assert doctor.domain_finding({"ROS_DOMAIN_ID": "x"}).status is Status.MISSING


def test_ros_environment_is_reported() -> None:
    environment = {
        "ROS_DISTRO": "jazzy",
        "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp",
        "ROS_DOMAIN_ID": "70",
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }
    findings = doctor.ros_findings(environment, rclpy_present=True, messages_present=True)
    assert {f.status for f in findings} == {Status.OK}
    assert "jazzy" in findings[0].found
    assert any("70" in f.found for f in findings)


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ("jazzy wheels 3.12", "jazzy, wheels from PyPI"),
        ("kilted /opt/ros/kilted 3.12", "kilted, installation at /opt/ros/kilted"),
        ("", "distribution unknown"),
    ],
)
def test_choice_of_set_up_is_reported(tmp_path: Path, choice: str, says: str) -> None:
    assert doctor.set_up_choice(tmp_path) == ""
    (tmp_path / "rldg-choice").write_text(choice + "\n")
    findings = doctor.ros_findings({}, True, True, doctor.set_up_choice(tmp_path))
    assert findings[0].found == says


def test_node_that_does_not_start_is_missing() -> None:
    assert doctor.node_finding(doctor.probe(doctor.NODE_PROBE)).status is Status.OK
    # An environment in which everything is found but one library does not load.
    broken = doctor.probe(doctor.NODE_PROBE, {"RMW_IMPLEMENTATION": "rmw_of_nobody"})
    finding = doctor.node_finding(broken)
    assert finding.status is Status.MISSING
    assert finding.found.startswith("does not start: ")


def test_crash_or_hang_of_a_driver_stays_in_the_child_process() -> None:
    assert doctor.probe("print('first'); print('last')").text == "last"
    assert "signal 11" in doctor.probe("import os; os.kill(os.getpid(), 11)").text
    hung = doctor.probe("import signal; signal.pause()", timeout_s=0.5)
    assert not hung.ok
    assert "no answer" in hung.text
    failed = doctor.probe("raise RuntimeError('no EGL display')")
    assert (failed.ok, failed.text) == (False, "RuntimeError: no EGL display")


def test_gl_renders_on_this_machine() -> None:
    finding = doctor.gl_finding({"MUJOCO_GL": "egl"})
    assert finding.status is Status.OK, finding


def test_unknown_gl_back_end_is_missing_with_a_working_one_named() -> None:
    finding = doctor.gl_finding({"MUJOCO_GL": "nonsense"})
    assert finding.status is Status.MISSING
    assert "MUJOCO_GL=egl" in finding.remedy


@pytest.mark.parametrize(("free_gb", "status"), [(0.05, Status.MISSING), (5.0, Status.OK)])
def test_disk_space_is_reported(free_gb: float, status: Status) -> None:
    assert doctor.space_finding("disk", free_gb, 5.0, "free some").status is status


def test_kernel_is_reported() -> None:
    assert doctor.kernel_finding("#1 SMP PREEMPT_RT Debian", realtime=False).status is Status.OK
    assert doctor.kernel_finding("#1 SMP Debian", realtime=False).status is Status.NOTE


@pytest.mark.parametrize(("status", "code"), [(Status.OK, 0), (Status.NOTE, 0), (Status.MISSING, 1)])
def test_exit_code_and_json_follow_the_findings(
    status: Status, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: [Finding("GL", status, "found", "remedy")])
    assert doctor.run(json=True) == code
    assert json.loads(capsys.readouterr().out) == [
        {"subject": "GL", "status": status.value, "found": "found", "remedy": "remedy"}
    ]
    assert doctor.run(json=False) == code
    assert "remedy" in capsys.readouterr().out
