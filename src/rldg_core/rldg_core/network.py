"""Discovery range of the nodes. Default: processes on this machine only.

ROS's own ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST limits the discovery of a node, not who can reach it. The suite
therefore binds Fast DDS to the loopback interface, with the profile beside this file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from rldg_core.errors import UserError, quoted

PROFILE = Path(__file__).resolve().with_name("fastdds_localhost.xml")

PROFILE_VARIABLE = "FASTDDS_DEFAULT_PROFILES_FILE"
RANGE_VARIABLE = "ROS_AUTOMATIC_DISCOVERY_RANGE"

MAX_DOMAIN = 232
"""Higher domains would use ports above 65535."""


def network_variable(environment: Mapping[str, str]) -> str:
    """Return the environment variable with which the user configures the network, "" when none is set."""
    if not (environment.get("RMW_IMPLEMENTATION") or "rmw_fastrtps").startswith("rmw_fastrtps"):
        return "RMW_IMPLEMENTATION"
    for name in (PROFILE_VARIABLE, "FASTRTPS_DEFAULT_PROFILES_FILE", "ROS_DISCOVERY_SERVER", "ROS_STATIC_PEERS"):
        value = environment.get(name, "")
        if value and not (name == PROFILE_VARIABLE and Path(value).resolve() == PROFILE):
            return name
    if environment.get(RANGE_VARIABLE, "LOCALHOST").upper() not in ("", "LOCALHOST", "SYSTEM_DEFAULT"):
        return RANGE_VARIABLE
    return ""


def prepare_network(environment: MutableMapping[str, str] = os.environ) -> None:
    """Prepare a process before rclpy.init: check the domain and restrict it to this machine by default.

    Raises UserError on an invalid ROS_DOMAIN_ID.
    """
    domain_id(environment)
    stay_on_this_machine(environment)


def domain_id(environment: Mapping[str, str] = os.environ) -> int:
    """ROS_DOMAIN_ID, 0 where it is not set. Raises UserError when it is invalid."""
    domain = environment.get("ROS_DOMAIN_ID", "")
    if domain and not (domain.isascii() and domain.isdecimal() and int(domain[:9]) <= MAX_DOMAIN):
        raise UserError(f"ROS_DOMAIN_ID: {quoted(domain)}, expected a number from 0 to {MAX_DOMAIN}")
    return int(domain or 0)


def stay_on_this_machine(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Bind the participants that this process will create to 127.0.0.1, unless the user configured the network.

    Call it before rclpy.init. Child processes inherit it. Returns whether it was applied.
    """
    if network_variable(environment):
        return False
    environment[PROFILE_VARIABLE] = str(PROFILE)
    # With LOCALHOST rmw_fastrtps would add a transport of its own that listens on all interfaces.
    environment[RANGE_VARIABLE] = "SYSTEM_DEFAULT"
    return True
