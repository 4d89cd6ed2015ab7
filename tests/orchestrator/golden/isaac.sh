#!/usr/bin/env bash
# Sets up and runs one run of Longshore: bash setup-and-run.sh [--build-only | --shell] [KEY=VALUE ...]
# --build-only stops once everything is installed and verified, --shell opens a shell then; KEY=VALUE words are further
# settings of the trainer.
# Starting it again is safe: what is installed stays, training goes on from its last checkpoint.
# shellcheck disable=SC2016,SC2317 # values stand as they are; traps call what looks unreachable
set -euo pipefail
set -E # functions report failing commands too

export LONGSHORE_RUN_ID='<run>-000'
export LONGSHORE_RUN_DIR='/home/user/my runs/<run>-000'
LONGSHORE_SNAPSHOT='/home/user/my runs/snapshots/5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a'
PYTHON=(/workspace/isaaclab/isaaclab.sh -p)
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
own_marks=("${run_marks[@]}" "LONGSHORE_ATTEMPT=$LONGSHORE_ATTEMPT")

python_path=$LONGSHORE_SNAPSHOT # further folders of packages come behind it
# The variables that the job asks for, for whatever is started here, whatever names this script uses itself.
with_environment() { # COMMAND...
  export PYTHONUNBUFFERED=1
  export TORCHINDUCTOR_CACHE_DIR=/root/.cache/longshore/torchinductor
  export OMNI_KIT_ACCEPT_EULA=yes
  export ACCEPT_EULA=Y
  export OMNI_KIT_ALLOW_ROOT=1
  export HEADLESS=1
  export HUB__ARGS__DETECT_ONLY=false
  export PYTHONNOUSERSITE=1
  export TD_GET_DEFAULTS_TO_NONE=1
  export WANDB_MODE=online
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
  if ((EUID == 0)); then # the folder's owner may be somebody else, who wants to clean up one day
    chown -R --reference=. . 2>/dev/null || true
  fi
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
trap finish EXIT
trap 'failed_line=${failed_line:-$LINENO} failed_command=${failed_command:-$BASH_COMMAND}' ERR
trap 'stop INT' INT
trap 'stop TERM' TERM
trap 'stop USR1' USR1 # Slurm's warning before the time limit

export TERM="${TERM:-xterm}" # isaaclab.sh complains without

# ---- secrets: NAME=VALUE words, each ended by a NUL, and an empty one; a pipe leaves no trace
if [[ "${LONGSHORE_SECRETS:-}" == stdin ]]; then
  unset LONGSHORE_SECRETS
  complete=
  while IFS= read -r -d '' -t 60 word; do # who sends them may be gone
    if [[ -z "$word" ]]; then
      complete=yes
      break
    fi
    export "${word?}"
  done
  exec </dev/null
  if [[ -z "$complete" ]]; then
    refuse "the secrets of the job did not arrive; submit it again"
  fi
fi
export DEBIAN_FRONTEND=noninteractive
if [[ -z "${CUDA_VISIBLE_DEVICES+set}" ]]; then # Isaac Lab takes one GPU unless told otherwise
  export CUDA_VISIBLE_DEVICES=0,1
fi
time_limit=86400 # seconds
export LONGSHORE_DEADLINE="${LONGSHORE_DEADLINE:-$((EPOCHSECONDS + time_limit))}"

# ---- what an earlier attempt of this run left behind
end_processes 30 "${run_marks[@]}"
if [[ -e SUCCESS ]]; then
  say "this run is done already: $LONGSHORE_RUN_DIR/SUCCESS"
  exit 0
fi
rm -f failure.json "$attempt_dir/exit_code"

# ---- install: beside the image's own packages, which stay as they are. What is installed is kept in a folder that is
# named for what decides its content, so that the next start, of any run that shares the folder, installs nothing.

apt=(rsync)
if dpkg -s -- "${apt[@]}" >/dev/null 2>&1; then
  say "apt: installed already"
else
  step apt-update apt-get update
  step apt apt-get install -y --no-install-recommends -- "${apt[@]}"
fi
# Every pip call is held to the versions that the image has, but for what the job itself names.
own=(cloudpickle code-0 hoptorch hydra-core importlib-metadata light-dependencies orjson pip pyvers tensorboard tensordict torchrl trainer wandb)
scratch=$(mktemp -d)
constraints="$scratch/constraints.txt"
facts="$scratch/facts"
touch "$facts"
step "packages of the image" "${PYTHON[@]}" - "$constraints" "$facts" "${own[@]}" <<'FREEZE'
import re, sys, sysconfig
from importlib.metadata import distributions

constraints, facts, *own = sys.argv[1:]
held = {}
for distribution in distributions():
    name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"] or "").lower()
    if name and name not in own:
        held.setdefault(name, distribution.version)  # the first on the path is the one that is imported
with open(constraints, "w", encoding="utf-8") as file:
    file.writelines(f"{name}=={version}\n" for name, version in sorted(held.items()))
with open(facts, "w", encoding="utf-8") as file:
    file.write(sysconfig.get_path("purelib", vars={"base": "", "platbase": ""}) + "\n")
print(f"{len(held)} packages are held at the image's versions", flush=True)
FREEZE
site=$(<"$facts") # below a prefix

PIP=("${PYTHON[@]}" -m pip install --no-input --disable-pip-version-check --no-warn-script-location)
PIP+=(--constraint "$constraints")
export PIP_ROOT_USER_ACTION=ignore
PIP+=(--no-index --find-links /data/wheels)

once() { # LABEL PIP_ARGUMENTS...
  local label=$1 stamp="$packages/.$1"
  shift
  if [[ -e "$stamp" ]]; then
    say "$label: installed already"
    return 0
  fi
  step "$label" "${PIP[@]}" --prefix "$packages" "$@"
  touch "$stamp"
}

kept=(
  light-dependencies --no-deps pyvers hoptorch==0.1.4 cloudpickle orjson importlib_metadata
  tensordict --no-build-isolation --no-deps --ignore-installed tensordict==0.14.3
  torchrl --no-build-isolation --no-deps --ignore-installed git+https://github.com/pytorch/rl@v0.14.1
  trainer  'hydra-core>=1.3.2' tensorboard 'wandb>=0.22.3'
  pip  hydra-core wandb
)
key=$({ cat "$constraints" && printf '%s\0' "$site" "${kept[@]}"; } | sha256sum)
key=${key:0:32}
packages="/opt/longshore/packages/$key" # of a baked image
if [[ ! -e "$packages/.complete" ]]; then
  packages="${LONGSHORE_STATE:-/var/lib/longshore}/packages/$key"
  if ! mkdir -p "$packages" 2>/dev/null || [[ ! -w "$packages" ]]; then
    packages="$LONGSHORE_RUN_DIR/packages/$key"
    mkdir -p "$packages"
  fi
fi
python_path+=":$packages$site"
export PATH="$packages/bin:$PATH"
if [[ -e "$packages/.complete" ]]; then
  say "packages: installed already, in $packages"
else
  installing=$SECONDS
  exec 9>"$packages.lock"
  if ! flock --nonblock 9; then
    step "waiting for another run that installs the same" flock 9
  fi
  once light-dependencies --no-deps -- pyvers hoptorch==0.1.4 cloudpickle orjson importlib_metadata
  once tensordict --no-build-isolation --no-deps --ignore-installed -- tensordict==0.14.3
  once torchrl --no-build-isolation --no-deps --ignore-installed -- git+https://github.com/pytorch/rl@v0.14.1
  once trainer  -- 'hydra-core>=1.3.2' tensorboard 'wandb>=0.22.3'
  once pip  -- hydra-core wandb
  touch "$packages/.complete"
  say "packages: installed in $((SECONDS - installing)) s, in $packages"
  exec 9>&-
fi

# What may change under the same name is this run's own.
packages="$LONGSHORE_RUN_DIR/packages/own"
rm -rf "$packages"
mkdir -p "$packages"
python_path="$LONGSHORE_SNAPSHOT:$packages$site${python_path#"$LONGSHORE_SNAPSHOT"}"
from_folder() { # LABEL FOLDER FLAGS...
  local label=$1 folder=$2
  shift 2
  cp -R -- "$folder" "$scratch/$label" # building writes beside the sources
  once "$label" "$@" -- "$scratch/$label"
}
once code-0 --no-build-isolation --no-deps --ignore-installed -- git+ssh://git@example.org/me/tasks.git@main
export LONGSHORE_CODE="$packages$site" # where the trainer looks for packages that register tasks

# ---- verify: one line a check, and what to do about each that fails

verify_imports=(torch tensordict torchrl)
verify_modules=(trainer.simulators.isaaclab isaaclab.app)
verify_gpus=2
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
  watchdog.start=2700
  watchdog.stall=900
  env.backend=isaaclab
  env.name=Isaac-Velocity-Flat-Anymal-C-v0
  optimization.total_optim_steps=100000
  seed=0
)
stage=trainer
while true; do
  status=0
  run_child "${PYTHON[@]}" -m trainer "${arguments[@]}" "$@" || status=$?
  break
done
exit "$status"
