"""Whom a node talks to. Without a word from the user: processes of this machine, and nobody else.

ROS's own ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST limits whom a node looks for, not who may talk to it. The suite
therefore binds Fast DDS to the loopback interface, with the profile beside this file.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

PROFILE = Path(__file__).with_name("fastdds_localhost.xml")

PROFILE_VARIABLE = "FASTDDS_DEFAULT_PROFILES_FILE"
RANGE_VARIABLE = "ROS_AUTOMATIC_DISCOVERY_RANGE"


def asked_for_network(environment: MutableMapping[str, str]) -> str:
    """Return the variable by which the user decides on the network, "" when none does."""
    if environment.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp") not in ("", "rmw_fastrtps_cpp", "rmw_fastrtps_dynamic_cpp"):
        return "RMW_IMPLEMENTATION"
    for name in (PROFILE_VARIABLE, "FASTRTPS_DEFAULT_PROFILES_FILE", "ROS_DISCOVERY_SERVER", "ROS_STATIC_PEERS"):
        if environment.get(name) and environment[name] != str(PROFILE):
            return name
    if environment.get(RANGE_VARIABLE, "LOCALHOST").upper() not in ("", "LOCALHOST", "SYSTEM_DEFAULT"):
        return RANGE_VARIABLE
    return ""


def stay_on_this_machine(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Bind the participants that this process will create to 127.0.0.1, unless the user decided otherwise.

    Call it before rclpy.init. Children inherit it. Returns whether it holds.
    """
    if asked_for_network(environment):
        return False
    environment[PROFILE_VARIABLE] = str(PROFILE)
    # With LOCALHOST rmw_fastrtps would add a transport of its own that listens on all interfaces.
    environment[RANGE_VARIABLE] = "SYSTEM_DEFAULT"
    return True
