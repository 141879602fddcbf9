#!/usr/bin/env bash
# One training on all machines of a Google Cloud TPU VM, on the JAX backend.
#
# Usage: launch/tpu_vm.sh --tpu=NAME --zone=ZONE [--setup=COMMAND] [--dry-run]
#            -- TRAINING
#
# TRAINING         arguments of python -m keras_app.train; --gin_file and
#                  --run_dir, which all machines must see, among them
# --tpu=NAME       the TPU VM
# --zone=ZONE      where it is
# --setup=COMMAND  run first on every machine, by its shell, such as
#                  --setup='cd app && . .venv/bin/activate'
# --dry-run        print the command and run nothing

set -euo pipefail
. "$(dirname "$0")/common.sh"

tpu='' zone='' setup=''
option() {
  case $1 in
    --tpu=*) tpu=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --setup=*) setup=${1#*=} ;;
    *) return 1 ;;
  esac
}
read_options "$@"
shift "$taken"
check_given --tpu "$tpu" 'the name of the TPU VM'
check_given --zone "$zone" 'where the TPU VM is'
KERAS_BACKEND=${KERAS_BACKEND:-jax}
check_backend jax
check_behind --gin_file 'what to train' "$@"
check_behind --run_dir 'a folder that all machines see' "$@"

# The empty variable asks JAX to find out itself who the machines are.
remote=$(
  command_line env KERAS_BACKEND=jax KERAS_DISTRIBUTION_JOB_ADDRESSES= \
    python -m keras_app.train "$@" --gin_file=distribution/tpu.gin --resume
)
run gcloud compute tpus tpu-vm ssh "$tpu" "--zone=$zone" --worker=all \
  "--command=${setup:+$setup && }$remote"
