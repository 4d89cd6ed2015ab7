#!/usr/bin/env bash
# As much of Isaac Lab's isaaclab.sh as a run needs: -p runs Isaac Sim's Python.
if [[ -z "${TERM:-}" ]]; then
    echo "'': unknown terminal type." >&2
fi
if [[ "${1:-}" != -p && "${1:-}" != --python ]]; then
    echo "[Error] Invalid argument provided: ${1:-}" >&2
    exit 1
fi
shift
echo "[INFO] Using python from: /workspace/isaaclab/_isaac_sim/python.sh"
"${ISAACLAB_PATH:-/workspace/isaaclab}/_isaac_sim/python.sh" "$@"
exit $?
