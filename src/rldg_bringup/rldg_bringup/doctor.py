"""`rldg doctor`: what this machine has, what is missing, and what to do about it.

Whatever may crash or hang (GL drivers, device runtimes) is tried in a child process with a deadline.
"""

from __future__ import annotations

import enum
import importlib.util
import json as json_module
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rldg_core.errors import UserError
from rldg_core.network import domain_id, network_variable

USB_DEVICES = Path("/sys/bus/usb/devices")
SHARED_MEMORY = Path("/dev/shm")
PROBE_TIMEOUT_S = 90.0
# A run of the demo keeps bags, a dataset, checkpoints and plots.
RUN_DISK_GB = 5.0
# Fast DDS keeps about 0.5 MB of shared memory per process in its default configuration.
SHARED_MEMORY_GB = 0.064

GL_PROBE = """
import mujoco
model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><light pos="0 0 3"/><geom size=".1"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 32, 32)
renderer.update_scene(data)
assert renderer.render().any(), 'the image is black'
from OpenGL import GL
print((GL.glGetString(GL.GL_RENDERER) or b'unknown').decode())
"""
# Loads the middleware and the compiled interfaces: both can be there and not load.
NODE_PROBE = """
import rclpy
from rldg_msgs.msg import Observation
rclpy.init()
node = rclpy.create_node('rldg_doctor')
node.create_publisher(Observation, '/rldg_doctor', 1)
print(rclpy.get_rmw_implementation_identifier())
"""
JAX_PROBE = "import jax; print(jax.__version__, ', '.join(str(d) for d in jax.devices()))"
TORCH_PROBE = (
    "import torch; c = torch.cuda; "
    "print(torch.__version__, ', '.join(c.get_device_name(i) for i in range(c.device_count())) or 'cpu')"
)


class Status(enum.Enum):
    """OK: there. NOTE: absent, and not needed for the simulation. MISSING: the simulation will not run."""

    OK = "ok"
    NOTE = "note"
    MISSING = "missing"


@dataclass(frozen=True)
class Finding:
    """One line of the report. `remedy` is empty when there is nothing to do."""

    subject: str
    status: Status
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class ProbeResult:
    """What a child process said: its last line, whether it ended with code 0 in time."""

    ok: bool
    text: str


def probe(code: str, env: Mapping[str, str] | None = None, timeout_s: float = PROBE_TIMEOUT_S) -> ProbeResult:
    """Runs Python code in a child process, so that a crash or a hang of a driver stays there."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        return ProbeResult(False, f"no answer in {timeout_s:.0f} s")
    if done.returncode < 0:
        return ProbeResult(False, f"crashed with signal {-done.returncode}")
    output = done.stdout if done.returncode == 0 else done.stderr
    lines = output.strip().splitlines() or [f"exit code {done.returncode}"]
    return ProbeResult(done.returncode == 0, lines[-1])


def usb_identities(devices: Path = USB_DEVICES) -> list[tuple[str, str]]:
    """(vendor, product) of every USB device, four lower-case hex digits each. Empty where there is no sysfs."""
    identities = []
    for vendor_file in sorted(devices.glob("*/idVendor")):
        product_file = vendor_file.with_name("idProduct")
        if product_file.exists():
            pair = (vendor_file.read_text(), product_file.read_text())  # bounded: files of the kernel
            identities.append((pair[0].strip().lower(), pair[1].strip().lower()))
    return identities


def is_realsense(identity: tuple[str, str]) -> bool:
    """Intel (8086) with a RealSense product number (0a.., 0b..); Intel hubs and radios are not cameras."""
    return identity[0] == "8086" and identity[1][:2] in ("0a", "0b")


def is_spacemouse(identity: tuple[str, str]) -> bool:
    """3Dconnexion (256f), or its devices under Logitech's number (046d:c6..)."""
    return identity[0] == "256f" or (identity[0] == "046d" and identity[1].startswith("c6"))


def usb_findings(identities: list[tuple[str, str]]) -> list[Finding]:
    """RealSense camera and SpaceMouse, both needed on a real robot only."""
    wanted = (
        ("RealSense", is_realsense, "real robot: plug the camera into USB 3 and install realsense2_camera"),
        ("SpaceMouse", is_spacemouse, "real robot: plug the mouse in and install spacenav"),
    )
    return [
        Finding(subject, Status.OK, ", ".join(":".join(i) for i in present))
        if (present := [i for i in identities if match(i)])
        else Finding(subject, Status.NOTE, "not present", remedy)
        for subject, match, remedy in wanted
    ]


def ros_origin(choice: str, environment: Mapping[str, str]) -> str:
    """ROS distribution and where it is from.

    `choice` is what set-up wrote: "<distribution> <wheels or prefix> <Python>", or empty.
    """
    fields = choice.split()
    if len(fields) != 3:
        return environment.get("ROS_DISTRO") or "distribution unknown"
    distribution, origin, _ = fields
    return f"{distribution}, {'wheels from PyPI' if origin == 'wheels' else f'installation at {origin}'}"


def node_finding(started: ProbeResult) -> Finding:
    """Whether a node with our interfaces starts (`NODE_PROBE`)."""
    if started.ok:
        return Finding("node", Status.OK, f"starts with {started.text}")
    return Finding("node", Status.MISSING, f"does not start: {started.text}", "run 'make setup'")


def ros_findings(
    environment: Mapping[str, str], rclpy_present: bool, messages_present: bool, choice: str = ""
) -> list[Finding]:
    """ROS distribution, workspace, middleware, domain and discovery range from the environment of a process."""
    distribution = ros_origin(choice, environment)
    rmw = environment.get("RMW_IMPLEMENTATION") or "default of the distribution"
    return [
        Finding("ROS 2", Status.OK, distribution)
        if rclpy_present
        else Finding("ROS 2", Status.MISSING, "rclpy cannot be imported", "run 'make setup'"),
        Finding("workspace", Status.OK, "rldg_msgs is built and sourced")
        if messages_present
        else Finding("workspace", Status.MISSING, "rldg_msgs cannot be imported", "make setup; source scripts/env.sh"),
        Finding("RMW", Status.OK, rmw)
        if "fastrtps" in rmw
        else Finding("RMW", Status.NOTE, rmw, "tested with RMW_IMPLEMENTATION=rmw_fastrtps_cpp only"),
        domain_finding(environment),
        network_finding(environment),
    ]


def network_finding(environment: Mapping[str, str]) -> Finding:
    """Who may talk to the nodes: processes of this machine, or any host that reaches it."""
    decides = network_variable(environment)
    if not decides:
        return Finding("network", Status.OK, "this machine alone: Fast DDS is bound to 127.0.0.1")
    remedy = f"if no second computer takes part: unset {decides}"
    if environment.get("ROS_SECURITY_ENABLE", "").lower() != "true":
        remedy += "; else a network of its own, or SROS2 (docs/how-to/hardware.md)"
    return Finding("network", Status.NOTE, f"{decides}={environment[decides]}: other machines may join", remedy)


def domain_finding(environment: Mapping[str, str]) -> Finding:
    """ROS_DOMAIN_ID, checked as every node checks it."""
    try:
        domain = domain_id(environment)
    except UserError as error:
        return Finding("domain", Status.MISSING, str(error), "unset ROS_DOMAIN_ID, or set it to a number")
    return Finding("domain", Status.OK, f"ROS_DOMAIN_ID {environment.get('ROS_DOMAIN_ID') or f'{domain} (default)'}")


def gl_finding(environment: Mapping[str, str]) -> Finding:
    """Renders one small image with the back-end that MUJOCO_GL names (egl when unset), and names one that works."""
    wanted = environment.get("MUJOCO_GL") or "egl"
    first = probe(GL_PROBE, {"MUJOCO_GL": wanted})
    if first.ok:
        return Finding("GL", Status.OK, f"{wanted}: {first.text}")
    for other in ("egl", "osmesa"):
        if other != wanted and probe(GL_PROBE, {"MUJOCO_GL": other}).ok:
            return Finding(
                "GL", Status.MISSING, f"{wanted}: {first.text}", f"export MUJOCO_GL={other}, which works here"
            )
    remedy = "sudo apt-get install libegl1 libgles2 libgl1-mesa-dri"
    return Finding("GL", Status.MISSING, f"{wanted}: {first.text}", remedy)


def device_finding(subject: str, code: str) -> Finding:
    """Version and devices of jax or torch as a fresh process sees them."""
    result = probe(code, {"JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "")})
    if result.ok:
        return Finding(subject, Status.OK, result.text)
    return Finding(subject, Status.MISSING, result.text, "run 'make setup'")


def kernel_finding(version: str, realtime: bool) -> Finding:
    """PREEMPT_RT, which the 1 kHz control of a real arm asks for; the simulation does not."""
    if realtime or "PREEMPT_RT" in version:
        return Finding("kernel", Status.OK, "PREEMPT_RT")
    return Finding("kernel", Status.NOTE, "no PREEMPT_RT", "real robot: boot a PREEMPT_RT kernel for 1 kHz control")


def space_finding(subject: str, free_gb: float, needed_gb: float, remedy: str) -> Finding:
    """Free space against what is needed."""
    found = f"{free_gb:.2f} GB free"
    if free_gb >= needed_gb:
        return Finding(subject, Status.OK, found)
    return Finding(subject, Status.MISSING, f"{found}, {needed_gb:g} GB needed", remedy)


def examine() -> list[Finding]:
    """Everything about this machine, in the order of the report. Takes some seconds (imports jax and torch)."""
    python = Finding("Python", Status.OK, f"{platform.python_version()} in {sys.prefix}")
    findings = [
        python,
        *ros_findings(os.environ, _importable("rclpy"), _importable("rldg_msgs"), set_up_choice(Path(sys.prefix))),
        node_finding(probe(NODE_PROBE)),
        gl_finding(os.environ),
        device_finding("jax", JAX_PROBE),
        device_finding("torch", TORCH_PROBE),
        *usb_findings(usb_identities()),
        kernel_finding(platform.version(), Path("/sys/kernel/realtime").exists()),
        space_finding("disk", shutil.disk_usage(Path.cwd()).free / 1e9, RUN_DISK_GB, "free some space for runs/"),
    ]
    if SHARED_MEMORY.exists():
        free_gb = shutil.disk_usage(SHARED_MEMORY).free / 1e9
        remedy = "container: start it with --shm-size=1g"
        findings.append(space_finding("shared memory", free_gb, SHARED_MEMORY_GB, remedy))
    return findings


def robot_findings(name: str) -> list[Finding]:
    """A robot profile: whether it is valid, how it is commanded, and whether its drivers are installed.

    Raises UserError when the profile is wrong.
    """
    from rldg_bringup.arguments import StackArguments
    from rldg_bringup.pipeline import resolve_task, share_dir
    from rldg_bringup.robots import find_robot

    arguments = StackArguments(robot=name)
    robot = find_robot(arguments, resolve_task(arguments.task), share_dir())
    profile, subject = robot.profile, f"robot {robot.name}"
    gains = profile.command.gains
    modes = f"gains: compliant {gains.compliant}, precise {gains.precise}; gripper {profile.gripper.kind}"
    findings = [Finding(subject, Status.OK, f"{profile.description}; {modes}")]
    if gains.precise == "none" and not profile.simulated:
        remedy = "resets are compliant; to apply impedance.precise of a task: docs/how-to/add-a-robot.md"
        findings.append(Finding(subject, Status.NOTE, "the precise gains of a task are never applied", remedy))
    if profile.command.recovery:
        findings.append(Finding(subject, Status.NOTE, "after a reflex", "; then ".join(profile.command.recovery)))
    packages = [one.package for one in profile.drivers.includes]
    packages += [one.package for one in profile.drivers.nodes]
    packages += [profile.camera.driver.package] if profile.camera.driver else []
    packages += [one.package for one in profile.mouse.nodes]
    for package in dict.fromkeys(packages):
        try:
            found = Finding(subject, Status.OK, f"{package} in {get_package_prefix(package)}")
        except PackageNotFoundError:
            remedy = "install it in the ROS workspace, source that workspace, then run 'make setup'"
            found = Finding(subject, Status.MISSING, f"driver package {package} is not installed", remedy)
        findings.append(found)
    return findings


def set_up_choice(prefix: Path) -> str:
    """What set-up wrote about the virtual environment at `prefix`; empty where it made none."""
    path = prefix / "rldg-choice"
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""  # bounded: set-up wrote it


def _importable(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def as_table(findings: list[Finding]) -> Table:
    """The report for a person."""
    colours = {Status.OK: "green", Status.NOTE: "yellow", Status.MISSING: "red"}
    table = Table("subject", "", "found", "what to do", title="rldg doctor")
    for finding in findings:
        status = Text(finding.status.value, style=colours[finding.status])
        table.add_row(finding.subject, status, finding.found, finding.remedy)
    return table


def run(json: bool = False, robot: str = "") -> int:
    """Prints the report; 1 when something that the simulation, or the robot, needs is missing, else 0."""
    of_robot = robot_findings(robot) if robot else []
    findings = [*examine(), *of_robot]
    if json:
        print(json_module.dumps([{**asdict(f), "status": f.status.value} for f in findings], indent=2))
    else:
        Console(markup=False).print(as_table(findings))
    return int(any(finding.status is Status.MISSING for finding in findings))
