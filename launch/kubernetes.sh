#!/usr/bin/env bash
# One training in several pods of a Kubernetes cluster, one process in each.
#
# Usage: KERAS_BACKEND=jax launch/kubernetes.sh --name=NAME --image=IMAGE
#            --claim=CLAIM --nodes=N [--gpus=N] [--dry-run] -- TRAINING
#
# TRAINING       arguments of python -m keras_app.train; --gin_file and
#                --run_dir, a folder in /runs, among them
# --name=NAME    what the Job and its Service are called
# --image=IMAGE  has python, keras_app, the gin files and the data
# --claim=CLAIM  a volume claim that many pods may write to, mounted at /runs
# --nodes=N      how many pods
# --gpus=N       NVIDIA GPUs of each pod; none if not given
# --dry-run      print the manifest and apply nothing
#
# KERAS_BACKEND must be tensorflow or jax. The manifest is kubernetes.yaml.

set -euo pipefail
. "$(dirname "$0")/common.sh"

name='' image='' claim='' nodes='' gpus=0
option() {
  case $1 in
    --name=*) name=${1#*=} ;;
    --image=*) image=${1#*=} ;;
    --claim=*) claim=${1#*=} ;;
    --nodes=*) nodes=${1#*=} && check_whole --nodes "$nodes" ;;
    --gpus=*) gpus=${1#*=} && check_whole --gpus "$gpus" ;;
    *) return 1 ;;
  esac
}
read_options "$@"
shift "$taken"
check_given --name "$name" 'what the Job is called'
check_given --image "$image" 'what the pods run'
check_given --claim "$claim" 'the volume claim for /runs'
check_given --nodes "$nodes" 'how many pods'
check_backend tensorflow jax
check_behind --gin_file 'what to train' "$@"
check_behind --run_dir 'a folder in /runs' "$@"

case $KERAS_BACKEND in
  tensorflow) set -- "$@" --gin_file=distribution/multi_worker.gin ;;
  jax) set -- "$@" --gin_file=distribution/data_parallel.gin ;;
esac

# yaml_list WORDS...: as a container's command holds them, where Kubernetes
# takes $ for the start of a reference.
yaml_list() {
  local word list=''
  for word; do
    word=$(sed 's/[\\"]/\\&/g; s/\$/$$/g' <<<"$word")
    list+="\"$word\", "
  done
  printf '%s' "${list%, }"
}

port=1234
workers=()
for ((index = 0; index < nodes; index++)); do
  workers+=("$name-$index.$name:$port")
done

manifest=$(<"$(dirname "$0")/kubernetes.yaml")
# fill PLACE VALUE. Not by ${manifest//}: newer versions of bash give & in the
# value a meaning.
fill() {
  local rest=$manifest filled=''
  while [[ $rest == *"@$1@"* ]]; do
    filled+=${rest%%"@$1@"*}$2
    rest=${rest#*"@$1@"}
  done
  manifest=$filled$rest
}
fill NAME "$name"
fill IMAGE "$image"
fill CLAIM "$claim"
fill NODES "$nodes"
fill FAILURES $((6 * nodes))
fill GPUS "$gpus"
fill BACKEND "$KERAS_BACKEND"
fill PORT "$port"
fill WORKERS "$(yaml_list "${workers[@]}")"
fill COMMAND "$(yaml_list python -m keras_app.train "$@" --resume)"

run_on "$manifest" kubectl apply -f -
