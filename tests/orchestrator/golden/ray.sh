#!/usr/bin/env bash
# Sets up and runs one run of Longshore: bash setup-and-run.sh [--build-only | --shell] [KEY=VALUE ...]
# --build-only stops once everything is installed and verified, --shell opens a shell then; KEY=VALUE words are further
# settings of the trainer.
# Starting it again is safe: what is installed stays, training goes on from its last checkpoint.
# shellcheck disable=SC2016,SC2317 # values stand as they are; traps call what looks unreachable
set -euo pipefail
set -E # functions report failing commands too

export LONGSHORE_RUN_ID='<run>'
export LONGSHORE_RUN_DIR='/home/user/my runs/<run>'
LONGSHORE_SNAPSHOT='/home/user/my runs/snapshots/5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a'
PYTHON=(/usr/bin/python3)
grace=90 # seconds between TERM and KILL

build_only=
shell=
if [[ "${1:-}" == --build-only || "${1:-}" == --shell ]]; then
  build_only=yes
  shell=${1/--build-only/}
  shift
fi
for word in "$@"; do
  if [[ "$word" != *=* ]]; then
    printf 'usage: bash setup-and-run.sh [--build-only | --shell] [KEY=VALUE ...]\n' >&2
    exit 2
  fi
done

if [[ -z "${LONGSHORE_ATTEMPT:-}" ]]; then # started by hand
  LONGSHORE_ATTEMPT=1
  while [[ -e "$LONGSHORE_RUN_DIR/attempts/$LONGSHORE_ATTEMPT" ]]; do
    LONGSHORE_ATTEMPT=$((LONGSHORE_ATTEMPT + 1))
  done
fi
if [[ ! "$LONGSHORE_ATTEMPT" =~ ^[1-9][0-9]*$ ]]; then
  printf 'LONGSHORE_ATTEMPT is %s; it must be a number from 1\n' "$LONGSHORE_ATTEMPT" >&2
  exit 2
fi
export LONGSHORE_ATTEMPT
attempt_dir="$LONGSHORE_RUN_DIR/attempts/$LONGSHORE_ATTEMPT"
# What stands in the environment of every process of this run, and of this attempt of it.
run_marks=("LONGSHORE_RUN_ID=$LONGSHORE_RUN_ID" "LONGSHORE_RUN_DIR=$LONGSHORE_RUN_DIR")
# One of several tasks that do this at once: the first one trains, the others are nodes of its Ray cluster.
export LONGSHORE_TASKS=2 LONGSHORE_TASK="${SLURM_PROCID:-0}"
run_marks+=("LONGSHORE_TASK=$LONGSHORE_TASK")
own_marks=("${run_marks[@]}" "LONGSHORE_ATTEMPT=$LONGSHORE_ATTEMPT")

python_path=$LONGSHORE_SNAPSHOT # further folders of packages come behind it
# The variables that the job asks for, for whatever is started here, whatever names this script uses itself.
with_environment() { # COMMAND...
  export PYTHONUNBUFFERED=1
  export PYTHONPATH="$python_path${PYTHONPATH:+:$PYTHONPATH}"
  exec "$@"
}

# ---- how the attempt ended, for whoever watches the run directory

stage=set-up # then: trainer
failed_line=
failed_command=
reason_file=
scratch=

say() {
  printf 'longshore: %s\n' "$*"
}

# The argument as a JSON string.
json_string() {
  local LC_ALL=C text=$1 backslash="\\" quote='"'
  text=${text//"$backslash"/"$backslash$backslash"}
  text=${text//"$quote"/"$backslash$quote"}
  text=${text//$'\n'/"${backslash}n"}
  printf '"%s"' "${text//[[:cntrl:]]/ }"
}

# Replaces the file by standard input, so that readers see the old content or the new.
replace() {
  local temporary="$1.$$.tmp"
  if cat >"$temporary" && sync "$temporary" && mv -f "$temporary" "$1"; then
    return 0
  fi
  rm -f "$temporary"
  say "$1 could not be written" >&2
}

write_failure() { # CLASS MESSAGE EXIT_STATUS
  say "$2" >&2
  printf '{"class": "%s", "message": %s, "traceback": "", "exit_code": %d, "attempt": %d}\n' \
    "$1" "$(json_string "$2")" "$3" "$LONGSHORE_ATTEMPT" | replace "$LONGSHORE_RUN_DIR/failure.json"
}

refuse() { # REASON
  reason_file=$(mktemp)
  failed_line=${BASH_LINENO[0]}
  printf '%s' "$1" >"$reason_file"
  exit 1
}

describe_status() { # EXIT_STATUS
  local signal
  if (($1 > 128)) && signal=$(kill -l "$(($1 - 128))" 2>/dev/null); then
    printf 'was ended by signal %d (SIG%s)' "$(($1 - 128))" "$signal"
  else
    printf 'ended with exit status %d' "$1"
  fi
}

# EXIT trap: the last word, unless the trainer had it. 75 means stopped, to be started again.
finish() {
  local status=$? message
  trap - ERR EXIT
  trap '' INT TERM USR1
  set +e
  end_processes 10 "${own_marks[@]}"
  if [[ -n "$build_only" ]] && ((status == 0)); then
    rm -rf "$reason_file" "$scratch"
    exit 0
  fi
  if ((LONGSHORE_TASK > 0)); then # the first one has the last word
    say "task $LONGSHORE_TASK ends with status $status$(sed '1s/^/: /' "${reason_file:-/dev/null}")"
    rm -rf "$reason_file" "$scratch"
    exit "$status"
  fi
  mkdir -p "$attempt_dir"
  if [[ "$stage" == set-up ]] && ((status != 0 && status != 75)); then
    message="$(cat "${reason_file:-/dev/null}")"
    message="set-up failed at line $failed_line of setup-and-run.sh: ${message:-exit status $status of: $failed_command}"
    status=1
    write_failure setup "$message" "$status"
  elif [[ "$stage" == trainer && ! -e SUCCESS ]]; then
    if [[ -n "$stopping" ]] && ((status == 143)); then
      status=75 # asked to stop before it listened: nothing is lost
    fi
    if [[ ! -e failure.json ]] && ((status != 75)); then
      message="the trainer $(describe_status "$status")"
      if ((status == 0)); then
        message+=", but wrote neither SUCCESS nor failure.json"
      elif [[ -n "$stopping" ]] && ((status == 137)); then
        message+=": it did not stop within $grace seconds of SIG$stopping"
      fi
      write_failure crash "$message" "$status"
    fi
    if ((status == 0)); then
      status=1
    fi
  fi
  rm -rf "$reason_file" "$scratch"
  printf '%d\n' "$status" | replace "$attempt_dir/exit_code"
  exit "$status"
}

# ---- processes

stopping= # the signal that asked for it
ending=

# Runs a command in the background and waits for it, because traps run only between commands or in `wait`.
run_child() {
  local child status=0 again=0
  if [[ -n "$stopping" ]]; then
    exit 75
  fi
  with_environment "$@" <&0 &
  child=$!
  if [[ -n "$stopping" ]]; then # the signal came before there was a child to forward it to
    end_children
  fi
  wait "$child" || status=$?
  if [[ -n "$stopping" ]]; then # `wait` may have returned because of the signal; 127: it had not
    wait "$child" 2>/dev/null || again=$?
    if ((again != 127)); then
      status=$again
    fi
  fi
  return "$status"
}

# A part of the set-up: LABEL COMMAND...
step() {
  local label=$1 status=0
  shift
  say "$label"
  run_child "$@" || status=$?
  if [[ -n "$stopping" ]]; then
    say "stopped by SIG$stopping during $label"
    exit 75
  fi
  if ((status != 0)); then
    failed_line=${BASH_LINENO[-2]} # in the script itself, whatever functions lie between
    printf -v failed_command '%q ' "$@"
    failed_command=${failed_command% }
    exit "$status"
  fi
}

stop() { # SIGNAL
  stopping=${stopping:-$1}
  end_children
}

# Asks running children to stop, and ends by force what has not after the grace period.
end_children() {
  local child until
  if [[ -n "$ending" ]]; then
    return 0
  fi
  ending=yes
  for child in $(jobs -pr); do
    say "SIG$stopping: asking the ${stage/set-up/set-up step} to stop"
    kill -TERM "$(python_below "$child")" 2>/dev/null || true
    until=$((SECONDS + grace))
    while kill -0 "$child" 2>/dev/null; do
      if ((SECONDS >= until)); then
        say "it did not within $grace seconds and is ended by force"
        kill -KILL "$child" 2>/dev/null || true
        end_processes 0 "${own_marks[@]}"
      fi
      sleep 0.1
    done
  done
  ending=
}

# The Python process that a wrapper such as isaaclab.sh started: wrappers forward no signals.
python_below() { # PID
  local pid=$1 name children
  while name=$(cat "/proc/$pid/comm" 2>/dev/null) && [[ "$name" != python* ]]; do
    children=$(cat "/proc/$pid/task/$pid/children" 2>/dev/null) || children=
    if [[ -z "$children" ]]; then
      pid=$1
      break
    fi
    pid=${children%% *}
  done
  printf '%d' "$pid"
}

# Numbers of the living processes whose environment holds all of the words NAME=VALUE, never of this script or of the
# processes that it descends from. Other users' environments cannot be read, so nobody else's process is ever found.
processes_with() {
  local pid=$$ key value file word spared=" $BASHPID "
  while ((pid > 0)); do
    spared+="$pid "
    while read -r key value; do
      if [[ "$key" == PPid: ]]; then
        pid=$value
        break
      fi
    done <"/proc/$pid/status"
  done
  for file in $(grep -lzxF -- "$1" /proc/[0-9]*/environ 2>/dev/null || true); do
    pid=${file//[!0-9]/}
    if [[ "$spared" == *" $pid "* ]]; then
      continue
    fi
    for word in "$@"; do
      grep -qzxF -- "$word" "$file" 2>/dev/null || continue 2
    done
    printf '%d ' "$pid"
  done
}

# A bare `return` in a trap would give the status from before the trap, hence the zeros.
# Ends the processes that `processes_with WORD...` finds: by TERM, and what is left after PATIENCE seconds by KILL.
end_processes() { # PATIENCE WORD...
  local patience=$1 signal until pids
  shift
  for signal in TERM KILL; do
    read -ra pids <<<"$(processes_with "$@")"
    if ((${#pids[@]} == 0)); then
      return 0
    fi
    say "ending processes that this run left behind: SIG$signal to ${pids[*]}"
    kill "-$signal" "${pids[@]}" 2>/dev/null || true
    until=$((SECONDS + patience))
    while ((SECONDS < until)) && [[ -n "$(processes_with "$@")" ]]; do
      sleep 0.1
    done
    patience=10 # seconds for the kernel and a GPU's driver to let go of what was killed
  done
}

mkdir -p "$LONGSHORE_RUN_DIR"
cd "$LONGSHORE_RUN_DIR"
if ((LONGSHORE_TASK > 0)); then
  mkdir -p "$attempt_dir"
  exec >>"$attempt_dir/task-$LONGSHORE_TASK.txt" 2>&1
fi
trap finish EXIT
trap 'failed_line=${failed_line:-$LINENO} failed_command=${failed_command:-$BASH_COMMAND}' ERR
trap 'stop INT' INT
trap 'stop TERM' TERM
trap 'stop USR1' USR1 # Slurm's warning before the time limit
if ((LONGSHORE_TASK > 0)); then
  trap '' INT TERM USR1 # it ends when the first one has
fi

export TERM="${TERM:-xterm}" # isaaclab.sh complains without

# ---- what an earlier attempt of this run left behind
end_processes 30 "${run_marks[@]}"
if [[ -e SUCCESS ]]; then
  say "this run is done already: $LONGSHORE_RUN_DIR/SUCCESS"
  exit 0
fi
if ((LONGSHORE_TASK == 0)); then
  rm -f failure.json "$attempt_dir/exit_code"
fi

# ---- verify: one line a check, and what to do about each that fails

verify_imports=(torch tensordict torchrl)
verify_modules=(trainer.simulators.debug)
verify_gpus=0
reason_file=$(mktemp)
step verify "${PYTHON[@]}" - "$reason_file" "$verify_gpus" "${constraints:-/dev/null}" \
  "${verify_imports[@]}" -- "${verify_modules[@]}" <<'VERIFY'
import ctypes, importlib, importlib.util, sys
from importlib.metadata import version

reason_file, gpus, constraints, *names = sys.argv[1:]
imports, modules = names[: names.index("--")], names[names.index("--") + 1 :]
REMEDIES = {
    "torch": "choose an image that has PyTorch",
    "tensordict": "see what pip said above; setup.tensordict chooses another version",
    "torchrl": "see what pip said above; setup.torchrl chooses another version",
    "isaaclab": "choose Isaac Lab's image, or one made from it",
    "mjlab": "add mjlab to setup.pip",
    "dm_control": "add dm_control to setup.pip",
    "trainer": "this version of the trainer has no such simulator: see env.backend",
}
reasons = []


def say(name, found):
    print(f"  ok    {name}: {found}", flush=True)


def fail(name, reason):
    remedy = REMEDIES.get(name.partition(".")[0])
    reasons.append(reason + (f"; {remedy}" if remedy else ""))
    print(f"  FAIL  {name}: {reasons[-1]}", flush=True)


def version_or_place(found):
    try:
        return version(found.name)
    except Exception:
        return found.origin


for name in imports:
    try:
        module = importlib.import_module(name)
    except Exception as error:
        fail(name, f"{sys.executable} cannot import {name}: {type(error).__name__}: {error}")
    else:
        say(name, getattr(module, "__version__", "there"))
for name in modules:
    try:
        found = importlib.util.find_spec(name)
    except Exception as error:
        fail(name, f"{sys.executable} cannot find {name}: {type(error).__name__}: {error}")
    else:
        say(name, version_or_place(found)) if found else fail(name, f"{sys.executable} has no module {name}")
with open(constraints, encoding="utf-8") as lines:
    held = dict(line.strip().split("==", 1) for line in lines if "==" in line)
for name in ("torch", "numpy"):
    if name in held:
        try:
            now = version(name)
        except Exception as error:
            now = f"gone ({error})"
        if now != held[name]:
            fail(name, f"{name} is {now}, and {held[name]} in the image: take out of setup.pip what replaces it")
        else:
            say(f"{name} as in the image", now)
if int(gpus) and "torch" in sys.modules:
    import torch

    count = torch.cuda.device_count()
    if count < int(gpus):
        fail("GPUs", f"the job asks for {gpus} GPUs, PyTorch sees {count}; compare resources.gpus with nvidia-smi there")
    else:
        say("GPUs", ", ".join(torch.cuda.get_device_name(index) for index in range(count)))
    for library, use in (("libvulkan.so.1", "rendering of cameras"), ("libEGL.so.1", "rendering without a display")):
        try:
            ctypes.CDLL(library)
        except OSError:
            print(f"  note  {library} is not there, which {use} needs", flush=True)
        else:
            say(library, "there")
if reasons:
    with open(reason_file, "w", encoding="utf-8") as file:
        file.write(" | ".join(reasons))
    sys.exit(1)
VERIFY
if [[ -n "$build_only" ]]; then
  say "set up and verified"
  if [[ -n "$shell" ]]; then
    printf 'python is: %s; training starts with: %s -m trainer KEY=VALUE ...\n' "${PYTHON[*]}" "${PYTHON[*]}"
    (with_environment bash -i) || true
  fi
  exit 0
fi
# ---- train
arguments=(
  watchdog.start=1800
  watchdog.stall=900
  pipeline=ray
  env.backend=debug
)
stage=trainer
if ((LONGSHORE_TASK > 0)); then
  run_child "${PYTHON[@]}" -m trainer.pipelines.ray_node
  exit 0
fi
while true; do
  status=0
  run_child "${PYTHON[@]}" -m trainer "${arguments[@]}" "$@" || status=$?
  break
done
exit "$status"
