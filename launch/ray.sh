#!/usr/bin/env bash
# A sweep on a Ray cluster that is up already.
#
# Usage: launch/ray.sh --address=ADDRESS [--dry-run] -- SWEEP
#
# SWEEP              arguments of python -m keras_app.sweep; --gin_file, --grid
#                    and --sweep_dir, which all machines must see, among them
# --address=ADDRESS  host:port of the cluster's head, or auto on a machine of it
# --dry-run          print the command and run nothing
#
# Started again, it goes on with what is in --sweep_dir.

set -euo pipefail
. "$(dirname "$0")/common.sh"

address=''
option() {
  case $1 in
    --address=*) address=${1#*=} ;;
    *) return 1 ;;
  esac
}
read_options "$@"
shift "$taken"
check_given --address "$address" 'host:port of the head of the cluster, or auto'
check_behind --gin_file 'what the runs share' "$@"
check_behind --grid 'what to vary' "$@"
check_behind --sweep_dir 'a folder that all machines see' "$@"

run python -m keras_app.sweep "$@" "--address=$address" --resume
