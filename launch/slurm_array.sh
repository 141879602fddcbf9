#!/usr/bin/env bash
# A sweep as a job array of a Slurm cluster, each run a job of its own.
#
# Usage: KERAS_BACKEND=jax launch/slurm_array.sh --grid=GRID [--grid=GRID ...]
#            --sweep_dir=FOLDER [--at_a_time=N] [--gpus=N]
#            [--sbatch=OPTION ...] [--dry-run] -- TRAINING
#
# TRAINING            arguments of python -m keras_app.train that the runs
#                     share, --gin_file among them
# --grid=GRID         what differs, as for python -m keras_app.sweep; several
#                     grids multiply
# --sweep_dir=FOLDER  gets a run folder for each point; all machines must see it
# --at_a_time=N       how many runs go on at a time; all if not given
# --gpus=N            GPUs of each run
# --sbatch=OPTION     one more option of sbatch, such as
#                     --sbatch=--time=4:00:00; may be given several times
# --dry-run           print the batch script and submit nothing
#
# KERAS_BACKEND must be tensorflow, jax or torch. A run that is preempted, or
# whose time is over, goes back into the queue and on from its checkpoint.

# shellcheck disable=SC2016 # What stands in '...' is for the job to expand.
set -euo pipefail
. "$(dirname "$0")/common.sh"

grids=() sweep_dir='' at_a_time='' gpus='' options=''
option() {
  case $1 in
    --grid=*) grids+=("${1#*=}") ;;
    --sweep_dir=*) sweep_dir=${1#*=} ;;
    --at_a_time=*) at_a_time=${1#*=} && check_whole --at_a_time "$at_a_time" ;;
    --gpus=*) gpus=${1#*=} && check_whole --gpus "$gpus" ;;
    --sbatch=*) options+="#SBATCH ${1#*=}"$'\n' ;;
    *) return 1 ;;
  esac
}
read_options "$@"
shift "$taken"
check_given --grid "${grids[*]-}" 'what to vary'
check_given --sweep_dir "$sweep_dir" 'a folder that all machines see'
check_backend tensorflow jax torch
check_behind --gin_file 'what the runs share' "$@"

# One line for each point. The sweep's own grid.py, without the package around
# it, which would import Keras.
cases=$(
  PYTHONPATH="$(dirname "$0")/../keras_app/experiments/sweep" \
    python - "$script" "$sweep_dir" "${grids[@]}" <<'EOF'
import shlex
import sys

import grid

script, sweep_dir, *texts = sys.argv[1:]
try:
    points = grid.points([grid.parse(text) for text in texts])
except ValueError as error:
    print(f"{script}: {error}", file=sys.stderr)
    sys.exit(2)
for index, (point, label) in enumerate(zip(points, grid.labels(points))):
    words = [f"--gin_param={key}={value!r}" for key, value in point.items()]
    words.append(f"--run_dir={sweep_dir}/{label}")
    print(f"  {index}) set -- {shlex.join(words)} ;;")
EOF
)
last=$(($(wc -l <<<"$cases") - 1))

size="#SBATCH --array=0-$last${at_a_time:+%$at_a_time}"
[ -z "$gpus" ] || size+=$'\n'"#SBATCH --gpus=$gpus"

# SLURM_JOB_ID would be the whole array's in one of its jobs.
batch=$(
  batch_head "$size" "$options" '${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID'
  cat <<EOF

case \$SLURM_ARRAY_TASK_ID in
$cases
esac
$(command_line python -m keras_app.train "$@") "\$@" --resume &
wait \$!
EOF
)
run_on "$batch" sbatch
