#!/usr/bin/env bash
# One environment for everything: .venv (Python + ROS 2), GL libraries, the built workspace, .venv/bin/rldg.
# Two stamps keep a second run short: what pip installs, and what colcon builds, each hashed over its inputs.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
venv=$root/.venv
needed_kb=$((4 * 1024 * 1024))  # measured: .venv 2.6 GB with the CPU build of torch; the rest for downloads

fail() { echo "setup: $1" >&2; exit 1; }
say() { echo "setup: $1 (${SECONDS} s)"; }

# --- which ROS ---------------------------------------------------------------------------------
# A sourced installation wins; the wheels in .venv are not "an installation" when this shell has sourced env.sh.
ros=wheels
if [[ -n ${AMENT_PREFIX_PATH:-} && -n ${ROS_DISTRO:-} && -d /opt/ros/${ROS_DISTRO} ]]; then
  case $ROS_DISTRO in
    jazzy | kilted) ros=$ROS_DISTRO ;;
    *) fail "ROS_DISTRO is '$ROS_DISTRO': source Jazzy or Kilted, or none to use the Kilted wheels" ;;
  esac
fi
unset _ROS_WHEELS_BOOTSTRAP_COMPLETE VIRTUAL_ENV PYTHONHOME

# --- which Python ------------------------------------------------------------------------------
supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }
find_python() {
  local candidate
  if [[ -n ${RLDG_PYTHON:-} ]]; then
    supported "$RLDG_PYTHON" || fail "RLDG_PYTHON=$RLDG_PYTHON is not Python 3.11 or 3.12"
    command -v "$RLDG_PYTHON"
    return
  fi
  # 3.11 first: it is the version the whole test suite was run with. rclpy of an installation fits one Python only.
  local candidates=(python3.11 python3.12 python3)
  [[ $ros == wheels ]] || candidates=(/usr/bin/python3)
  for candidate in "${candidates[@]}"; do
    if supported "$candidate"; then command -v "$candidate"; return; fi
  done
  fail "Python 3.11 or 3.12 is needed ($(python3 -V 2>&1 || true) found): install one or set RLDG_PYTHON"
}

if [[ -x $venv/bin/python ]] && supported "$venv/bin/python"; then
  python=$venv/bin/python
else
  python=$(find_python)
fi
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
constraints=requirements/constraints.txt

# --- stamps ------------------------------------------------------------------------------------
digest() { sha256sum | cut -d' ' -f1; }
# What the environments of `make test-compat` want is none of ours.
ours=$(ls requirements/*.txt | grep -v -e compat -e lerobot)
python_key=$( (echo "$root $ros $("$python" -V)"; cat $ours scripts/setup.sh scripts/repair_wheels.py) | digest)
workspace_key=$( (
  echo "$python_key"
  # Contents of what colcon copies or generates from; names only of data files, which are linked.
  find src -not -path '*/build/*' \( -name package.xml -o -name 'setup.*' -o -name CMakeLists.txt \
    -o -name '*.msg' -o -name '*.srv' -o -name '*.action' \) -type f -print0 | sort -z | xargs -0 sha256sum
  find src/*/config src/*/resource launch -type f 2>/dev/null | sort
  cat colcon.meta scripts/build_workspace.sh
) | digest)

same() { [[ -f $1 && $(<"$1") == "$2" ]]; }

# --- GL ----------------------------------------------------------------------------------------
gl_libraries=(libegl1 libgles2 libgl1-mesa-dri)
ensure_gl() {
  # Loads what is asked for rather than listing it: ldconfig is often outside a user's PATH.
  "$python" -c 'import ctypes; ctypes.CDLL("libEGL.so.1"); ctypes.CDLL("libGLESv2.so.2")' 2>/dev/null && return
  local sudo=()
  if [[ $(id -u) != 0 ]]; then
    if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then sudo=(sudo); else sudo=(none); fi
  fi
  if command -v apt-get >/dev/null && [[ ${sudo[0]:-} != none ]]; then
    say "installing ${gl_libraries[*]} with apt"
    if "${sudo[@]}" apt-get update -qq && "${sudo[@]}" apt-get install -y -qq "${gl_libraries[@]}" >/dev/null; then
      return
    fi
  fi
  echo "setup: camera images need GL: install ${gl_libraries[*]} (sudo apt-get install ${gl_libraries[*]})" >&2
}

# --- Python environment ------------------------------------------------------------------------
pip_install() {
  if ! PIP_DISABLE_PIP_VERSION_CHECK=1 "$venv/bin/python" -m pip install -q --progress-bar off "$@" 2>"$venv/pip.log"; then
    tail -n 20 "$venv/pip.log" >&2
    if grep -qiE 'no space left' "$venv/pip.log"; then fail "the disk is full"; fi
    if grep -qiE 'NewConnectionError|name resolution|ConnectTimeout|Network is unreachable' "$venv/pip.log"; then
      fail "no network: the package index cannot be reached (see .venv/pip.log)"
    fi
    fail "pip could not install $* (see .venv/pip.log)"
  fi
}

install_python() {
  local free_kb layers=(build core jax torch dev) arguments=()
  if [[ ! -x $venv/bin/python ]]; then
    free_kb=$(df -Pk "$root" | awk 'NR == 2 {print $4}')
    ((free_kb >= needed_kb)) || fail "$((free_kb / 1024)) MB free on $root, $((needed_kb / 1024)) MB are needed"
    [[ $ros == wheels ]] && arguments=() || arguments=(--system-site-packages)
    "$python" -m venv "${arguments[@]}" "$venv" || fail "$python cannot make a virtual environment (Debian: install python$version-venv)"
    say "virtual environment with Python $version, ROS 2: $ros"
  fi
  [[ $ros != wheels ]] || layers=(ros "${layers[@]}")
  arguments=(-c "$constraints")
  local layer
  for layer in "${layers[@]}"; do arguments+=(-r "requirements/$layer.txt"); done
  # One call, so that pip resolves all layers together.
  pip_install "${arguments[@]}"
  say "Python packages: ${layers[*]}"
  if [[ $ros == wheels ]]; then "$venv/bin/python" scripts/repair_wheels.py "$venv"; fi
}

if ! same "$venv/rldg-python.stamp" "$python_key"; then
  command -v c++ >/dev/null && command -v make >/dev/null || fail "a C++ compiler is needed: sudo apt-get install build-essential"
  ensure_gl
  install_python
  echo "$python_key" >"$venv/rldg-python.stamp"
fi
if ! same "$venv/rldg-workspace.stamp" "$workspace_key" || [[ ! -f install/setup.bash ]]; then
  bash scripts/build_workspace.sh "$ros"
  say "workspace built"
  echo "$workspace_key" >"$venv/rldg-workspace.stamp"
fi
if ! cmp -s scripts/rldg "$venv/bin/rldg"; then install -m 755 scripts/rldg "$venv/bin/rldg"; fi
say "ready: .venv/bin/rldg, or 'source scripts/env.sh'"
