# Source me: functions of setup.sh and env.sh.
# rldg_sourced_ros prints the prefix of the ROS 2 installation that this shell has sourced, or nothing.
# A virtual environment with ROS wheels is not an installation, wherever it lies; neither is a workspace without rclpy.
rldg_sourced_ros() {
  local prefix prefixes
  IFS=: read -r -a prefixes <<<"${AMENT_PREFIX_PATH:-}"
  for prefix in "${prefixes[@]}"; do
    if [[ -f $prefix/share/rclpy/package.xml && ! -f $prefix/pyvenv.cfg ]]; then
      echo "$prefix"
      return
    fi
  done
}

# Prints where the virtual environment $1 was made: another path than $1 when it was moved since.
rldg_made_at() { (set +eu; source "$1/bin/activate"; echo "$VIRTUAL_ENV") 2>/dev/null; }
