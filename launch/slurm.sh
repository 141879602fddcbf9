#!/usr/bin/env bash
# One training on several machines of a Slurm cluster, one process on each.
#
# Usage: KERAS_BACKEND=jax launch/slurm.sh --nodes=N [--gpus=N]
#            [--sbatch=OPTION ...] [--dry-run] -- TRAINING
#
# TRAINING         arguments of python -m keras_app.train; --gin_file and
#                  --run_dir, which all machines must see, among them
# --nodes=N        how many machines
# --gpus=N         GPUs of each machine
# --sbatch=OPTION  one more option of sbatch, such as --sbatch=--time=4:00:00;
#                  may be given several times
# --dry-run        print the batch script and submit nothing
#
# KERAS_BACKEND must be tensorflow or jax. A job that is preempted, or whose
# time is over, goes back into the queue and on from its checkpoint.

# shellcheck disable=SC2016 # What stands in '...' is for the job to expand.
set -euo pipefail
. "$(dirname "$0")/common.sh"

nodes='' gpus='' options=''
option() {
  case $1 in
    --nodes=*) nodes=${1#*=} && check_whole --nodes "$nodes" ;;
    --gpus=*) gpus=${1#*=} && check_whole --gpus "$gpus" ;;
    --sbatch=*) options+="#SBATCH ${1#*=}"$'\n' ;;
    *) return 1 ;;
  esac
}
read_options "$@"
shift "$taken"
check_given --nodes "$nodes" 'how many machines'
check_backend tensorflow jax
check_behind --gin_file 'what to train' "$@"
check_behind --run_dir 'a folder that all machines see' "$@"

size="#SBATCH --nodes=$nodes"$'\n#SBATCH --ntasks-per-node=1'
[ -z "$gpus" ] || size+=$'\n'"#SBATCH --gpus-per-node=$gpus"

case $KERAS_BACKEND in
  jax)
    set -- "$@" --gin_file=distribution/data_parallel.gin
    meet='first=$(head -n 1 <<<"$hosts")
export KERAS_DISTRIBUTION_JOB_ADDRESSES="$first:$port"
export KERAS_DISTRIBUTION_NUM_PROCESSES="$SLURM_JOB_NUM_NODES"'
    start='export KERAS_DISTRIBUTION_PROCESS_ID="$SLURM_PROCID"
  # JAX would take but one GPU of the machine where it sees this.
  unset SLURM_LOCALID'
    ;;
  tensorflow)
    set -- "$@" --gin_file=distribution/multi_worker.gin
    meet='WORKERS=$(sed "s/.*/\"&:$port\"/" <<<"$hosts" | paste -sd , -)
export WORKERS'
    start='task="{\"type\": \"worker\", \"index\": $SLURM_PROCID}"
  export TF_CONFIG="{\"cluster\": {\"worker\": [$WORKERS]}, \"task\": $task}"'
    ;;
esac

batch=$(
  batch_head "$size" "$options" '$SLURM_JOB_ID'
  cat <<EOF

port=\$((20000 + SLURM_JOB_ID % 10000))
hosts=\$(scontrol show hostnames "\$SLURM_JOB_NODELIST")
$meet
# srun does not give a process the job's CPUs by itself.
[ -z "\${SLURM_CPUS_PER_TASK:-}" ] ||
  export SRUN_CPUS_PER_TASK="\$SLURM_CPUS_PER_TASK"

srun --kill-on-bad-exit=1 bash -c '
  $start
  exec "\$@"
' process $(command_line python -m keras_app.train "$@" --resume) &
wait \$!
EOF
)
run_on "$batch" sbatch
