#!/usr/bin/env bash
# As Isaac Sim's python.sh: sets up paths, then runs the Python that comes with Kit.
export CARB_APP_PATH=/isaac-sim/kit ISAAC_PATH=/isaac-sim EXP_PATH=/isaac-sim/apps
export PYTHONPATH="${PYTHONPATH:-}:/isaac-sim/exts"
/isaac-sim/kit/python/bin/python3 "$@"
status=$?
if ((status != 0)); then
    echo "There was an error running python" >&2
fi
exit "$status"
