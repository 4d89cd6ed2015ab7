#!/bin/bash
# Does the runs that an allocation was given, one after the other: bash in-turn.sh [--build-only]
# --build-only sets up for the first of them, and thereby for all. A run is begun by whoever makes its folder in `turns`,
# and so are those that nobody wants any more taken away. This script carries none of a run's marks, because each run's
# own ends every process that does.
set -u
root=/root/longshore # of the runs
turns=/root/longshore.turns
given=/root/longshore.env
build_only=${1:-}

longest= # seconds that a run has taken here
stopping=

# Whether the time that is left is enough for another run like the longest one so far, with a tenth to spare.
is_time() {
  [[ -z "$deadline" || -z "$longest" ]] || ((deadline - EPOCHSECONDS >= longest + longest / 10))
}

take() { # RUN ATTEMPT [KEY=VALUE…]
  local run=$1 attempt=$2 begun=$EPOCHSECONDS took turn="$turns/$1.$2"
  shift 2
  if [[ -n "$build_only" ]]; then
    LONGSHORE_ATTEMPT=$attempt exec bash "$root/$run/setup-and-run.sh" --build-only
  fi
  if ! mkdir -- "$turn" 2>/dev/null; then
    return 0
  elif [[ -n "$stopping" ]] || ! is_time; then
    : >"$turn/returned"
    return 0
  fi
  LONGSHORE_ATTEMPT=$attempt bash "$root/$run/setup-and-run.sh" "$@" 9>&-
  : >"$turn/done"
  took=$((EPOCHSECONDS - begun + 1))
  longest=$((took > longest ? took : longest))
}

if [[ -z "$build_only" ]]; then
  trap 'stopping=yes' INT TERM USR1 # the run that goes on is told itself, and is waited for
  mkdir -p -- "$turns"
  exec 9>>"$turns/lock" # held for as long as there is somebody who begins runs
  flock 9
  # Words that each end with a NUL; the secrets among them are for the runs.
  deadline=$(tr '\0' '\n' <"$given" | sed -n '/^LONGSHORE_DEADLINE=/{s///p;q}')
fi
take '<run>-000' 1 
take '<run>-001' 2 env.name=Isaac-Ant-v0
