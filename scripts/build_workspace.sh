#!/usr/bin/env bash
# colcon build of the workspace with the environment's CMake and ROS. Argument: "wheels" or a ROS distribution.
set -euo pipefail
unset CDPATH
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root"
venv=$root/.venv
export PATH=$venv/bin:$PATH VIRTUAL_ENV=$venv
if [[ ${1:-wheels} == wheels ]]; then
  export AMENT_PREFIX_PATH=$venv CMAKE_PREFIX_PATH=$venv
  unset COLCON_PREFIX_PATH PYTHONPATH
fi
mkdir -p log
if ! colcon build --symlink-install --base-paths src --metas colcon.meta --parallel-workers "$(nproc)" \
  >log/setup_build.log 2>&1; then
  grep -hE 'error:|Error|No space left' -A3 log/setup_build.log | head -n 20 >&2 || true
  echo "setup: colcon build failed: see log/setup_build.log and log/latest_build" >&2
  exit 1
fi
