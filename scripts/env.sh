# Source me (bash): virtual environment, workspace and the variables our processes expect.
# Variables that are already set win.
if [[ -z ${BASH_VERSION:-} ]]; then
  echo "rldg: scripts/env.sh is for bash: start one first" >&2
  return 1
fi

# Fails, with one line, where the checkout $1 is not set up for this place and for the ROS 2 that this shell has sourced.
_rldg_check() {
  local root=$1 made_at sourced ros=kilted from=wheels
  if [[ ! -f $root/.venv/bin/activate || ! -f $root/install/setup.bash ]]; then
    echo "rldg: not set up yet: run 'make setup' in $root" >&2
    return 1
  fi
  source "$root/scripts/surroundings.sh"
  made_at=$(rldg_made_at "$root/.venv")
  if [[ ! $made_at -ef $root/.venv ]]; then
    echo "rldg: the checkout was moved from ${made_at%/.venv} to $root: run 'make setup' there" >&2
    return 1
  fi
  if [[ -f $root/.venv/rldg-choice ]]; then read -r ros from _ <"$root/.venv/rldg-choice"; fi
  sourced=$(rldg_sourced_ros)
  if [[ -n $sourced && $sourced != "$from" ]]; then
    echo "rldg: this shell has sourced $sourced, but $root was set up for $ros ($from): use a shell that has not," \
      "or 'make clean setup' there" >&2
    return 1
  fi
}

_rldg_root=$(unset CDPATH; cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
_rldg_check "$_rldg_root" || {
  unset _rldg_root
  return 1
}
# activate and colcon's scripts read unset variables and let commands fail: `set -eu` is lifted while they run.
_rldg_flags=$-
set +eu
source "$_rldg_root/.venv/bin/activate"
source "$_rldg_root/install/setup.bash" >/dev/null
# The `ros2` of an installation runs the system's Python, which must find what our launch file imports from .venv.
if grep -q '^include-system-site-packages = true' "$_rldg_root/.venv/pyvenv.cfg"; then
  for _rldg_packages in "$_rldg_root"/.venv/lib/python3.*/site-packages; do
    if [[ :${PYTHONPATH:-}: != *:$_rldg_packages:* ]]; then
      export PYTHONPATH=${PYTHONPATH:+$PYTHONPATH:}$_rldg_packages
    fi
  done
  unset _rldg_packages
fi
if [[ $_rldg_flags == *u* ]]; then set -u; fi
if [[ $_rldg_flags == *e* ]]; then set -e; fi
export RMW_IMPLEMENTATION=${RMW_IMPLEMENTATION:-rmw_fastrtps_cpp}
# Processes of this machine alone, unless a variable asks for a network (the same rule as in rldg_core/network.py, which
# every node and `rldg` apply by themselves; here for tools such as `ros2 topic`).
if [[ $RMW_IMPLEMENTATION == rmw_fastrtps* && ${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST} =~ ^(LOCALHOST|SYSTEM_DEFAULT)$ &&
  -z ${FASTDDS_DEFAULT_PROFILES_FILE:-}${FASTRTPS_DEFAULT_PROFILES_FILE:-}${ROS_DISCOVERY_SERVER:-}${ROS_STATIC_PEERS:-} ]]; then
  export FASTDDS_DEFAULT_PROFILES_FILE=$_rldg_root/src/rldg_core/rldg_core/fastdds_localhost.xml
  export ROS_AUTOMATIC_DISCOVERY_RANGE=SYSTEM_DEFAULT
fi
export ROS_AUTOMATIC_DISCOVERY_RANGE=${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}
export MUJOCO_GL=${MUJOCO_GL:-egl}
# A service or a cron job has no HOME, and rclpy does not start without a place for its logs.
if [[ -z ${HOME:-} ]]; then
  unset HOME
  export HOME=~
fi
# One BLAS thread per process: a stack is about ten processes.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
unset _rldg_root _rldg_flags
unset -f _rldg_check rldg_sourced_ros rldg_made_at
