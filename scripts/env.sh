# Source me (bash): virtual environment, workspace and the variables our processes expect.
# Variables that are already set win.
_rldg_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [[ ! -f $_rldg_root/.venv/bin/activate || ! -f $_rldg_root/install/setup.bash ]]; then
  echo "rldg: not set up yet: run 'make setup' in $_rldg_root" >&2
  return 1
fi
# activate and colcon's scripts read unset variables and let commands fail: `set -eu` is lifted while they run.
_rldg_flags=$-
set +eu
source "$_rldg_root/.venv/bin/activate"
source "$_rldg_root/install/setup.bash" >/dev/null
if [[ $_rldg_flags == *u* ]]; then set -u; fi
if [[ $_rldg_flags == *e* ]]; then set -e; fi
export RMW_IMPLEMENTATION=${RMW_IMPLEMENTATION:-rmw_fastrtps_cpp}
export ROS_AUTOMATIC_DISCOVERY_RANGE=${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}
export MUJOCO_GL=${MUJOCO_GL:-egl}
# One BLAS thread per process: a stack is about ten processes.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
unset _rldg_root _rldg_flags
