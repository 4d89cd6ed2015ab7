#!/bin/bash
# Allocates, copies, sets up and starts what is in `bundle`; `phase` says how far it has come. Typed in its own folder.
# It prints the job's id and goes on by itself: neither a queue nor a set-up of minutes needs the submitter. It carries
# none of the run's marks, because the set-up script ends every process that does.
# shellcheck disable=SC2016 # the placeholder stands as it is in the commands
set -u
folder=$PWD
attempt=1
ready=1800
time_limit=86400

job=(steve job --partition h200-high --gpus-per-task 2 --ntasks 1 --time 24:00:00 --job-name anymal-flat --container-image nvcr.io/nvidia/isaac-lab:2.3.0 --jobid-only)
copy_script=(steve cp '$JOBID' ./setup-and-run.sh :/root/setup-and-run.sh)
copy_given=(steve cp '$JOBID' ./longshore.env :/root/longshore.env)
copy_code=(steve cp '$JOBID' ./longshore.tar.gz :/root/longshore.tar.gz)
unpack=(steve step '$JOBID' 'chmod 600 /root/longshore.env && mkdir -p /root/longshore && tar -xzf /root/longshore.tar.gz -C /root/longshore && rm /root/longshore.tar.gz')
set_up=(steve step '$JOBID' 'bash /root/setup-and-run.sh --build-only')
train=(steve step -d '$JOBID' 'WANDB_MODE=online bash /root/setup-and-run.sh')

# Types a command, with the job's id in its place.
type_in() { # WORD…
  local word words=()
  for word in "$@"; do
    if [[ "$word" == '$JOBID' ]]; then
      word=$JOBID
    fi
    words+=("$word")
  done
  "${words[@]}"
}

phase() { # NAME [MESSAGE]
  if [[ -e "$folder/cancelled" ]]; then
    exit
  fi
  printf '%s\n' "$*" >"$folder/phase.tmp" && mv -f -- "$folder/phase.tmp" "$folder/phase"
}

phase allocating
printed=$("${job[@]}")
status=$?
# Warnings may stand before the id, with numbers in them: the id is a line of its own, and the last one.
JOBID=$(grep -xE '[[:space:]]*[0-9]+[[:space:]]*' <<<"$printed" | tail -n 1 | tr -d '[:space:]')
if [[ -z "$JOBID" ]] && ((status == 0)); then
  echo 'steve job has succeeded and printed no id: an unexpected message' >&2 # so nobody knows what it did
  exit 1
elif [[ -z "$JOBID" ]]; then
  exit "$status"
fi
printf '%s\n' "$JOBID"

start() {
  trap '' HUP
  cd -- "$folder/bundle" || {
    phase "failed $folder/bundle is gone"
    return
  }
  phase waiting
  until=$((SECONDS + ready)) pause=1
  while true; do
    begun=$EPOCHSECONDS
    if type_in "${copy_script[@]}"; then
      break
    elif ((SECONDS >= until)); then
      phase silent
      return
    fi
    sleep "$pause"
    phase waiting
    pause=$((pause < 15 ? pause + 1 : 15))
  done
  phase copying
  (
    umask 077
    if [[ -n "$attempt" ]]; then
      printf 'LONGSHORE_ATTEMPT=%d\0' "$attempt"
    fi
    if [[ -n "$time_limit" ]]; then
      printf 'LONGSHORE_DEADLINE=%d\0' "$((begun + time_limit))"
    fi
    if [[ -e "$folder/secrets" ]]; then
      cat -- "$folder/secrets"
    else
      printf '\0'
    fi
  ) >given.tmp
  mv -f -- given.tmp longshore.env
  if ! { type_in "${copy_given[@]}" && type_in "${copy_code[@]}" && type_in "${unpack[@]}"; }; then
    phase failed 'the code could not be copied'
    return
  fi
  cd / && rm -rf -- "$folder/bundle" "$folder/secrets"
  phase setting-up
  if ! type_in "${set_up[@]}"; then
    phase failed 'the set-up has failed'
    return
  fi
  phase starting
  if type_in "${train[@]}"; then
    phase started
  else
    phase failed 'the detached step could not be started'
  fi
}

start >>"$folder/output" 2>&1 </dev/null &
