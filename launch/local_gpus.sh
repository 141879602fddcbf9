#!/usr/bin/env bash
# One training on several GPUs of this machine.
#
# Usage: KERAS_BACKEND=jax launch/local_gpus.sh [--gpus=N] [--dry-run]
#            -- TRAINING
#
# TRAINING   arguments of python -m keras_app.train, --gin_file among them
# --gpus=N   how many GPUs; all of them if not given
# --dry-run  print the command and run nothing
#
# KERAS_BACKEND must be tensorflow or jax.

set -euo pipefail
. "$(dirname "$0")/common.sh"

gpus=''
option() {
  case $1 in
    --gpus=*) gpus=${1#*=} && check_whole --gpus "$gpus" ;;
    *) return 1 ;;
  esac
}
read_options "$@"
shift "$taken"
check_backend tensorflow jax
check_behind --gin_file 'what to train' "$@"

# The user's file comes first, because the run folder is called after it.
case $KERAS_BACKEND in
  tensorflow) set -- "$@" --gin_file=distribution/mirrored.gin ;;
  jax) set -- "$@" --gin_file=distribution/data_parallel.gin ;;
esac
[ -z "$gpus" ] || set -- "$@" "--gin_param=devices.scope.devices=$gpus"

run env "KERAS_BACKEND=$KERAS_BACKEND" python -m keras_app.train "$@"
