# shellcheck shell=bash
# What the scripts of this folder share; read by them, not run.

script="launch/$(basename "$0")"
dry_run=''

# Ends with the exit status of a mistake in the arguments, and one line.
fail() {
  printf '%s: %s\n' "$script" "$1" >&2
  exit 2
}

# Prints the comment at the top of the script.
show_help() {
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
  exit 0
}

# read_options ARGUMENTS...: gives each option to the script's own `option`,
# which fails on those that it does not know. The script must `shift "$taken"`;
# what is left then goes to the command.
read_options() {
  taken=$#
  while [ $# -gt 0 ]; do
    case $1 in
      --dry-run) dry_run=yes ;;
      --help) show_help ;;
      --) shift && break ;;
      *)
        option "$1" || fail "unexpected argument: $1 (what the command itself \
takes goes behind --)"
        ;;
    esac
    shift
  done
  taken=$((taken - $#))
}

# check_whole OPTION VALUE
check_whole() {
  [[ $2 =~ ^[1-9][0-9]*$ ]] ||
    fail "$1 must be a whole number, at least 1. Received: $1=$2"
}

# check_given OPTION VALUE WHAT
check_given() {
  [ -n "$2" ] || fail "$1 must be given: $3."
}

# check_behind FLAG WHAT ARGUMENTS...: the command must be given a flag.
check_behind() {
  local flag=$1 what=$2 word
  shift 2
  for word; do
    case $word in "$flag" | "$flag"=*) return ;; esac
  done
  fail "$flag must be given behind --: $what."
}

# check_backend NAMES...: KERAS_BACKEND must be one of them.
check_backend() {
  local name
  for name; do
    [ "${KERAS_BACKEND:-}" != "$name" ] || return 0
  done
  fail "KERAS_BACKEND must be one of: $*. Received: ${KERAS_BACKEND:-none}"
}

# Prints a command so that a shell reads the same words back.
command_line() {
  local word line=''
  for word; do
    case $word in
      '' | *[!A-Za-z0-9_./:=,@%+-]*)
        word=$(sed "s/'/'\\\\''/g; 1s/^/'/; \$s/\$/'/" <<<"$word")
        ;;
    esac
    line+="$word "
  done
  printf '%s\n' "${line% }"
}

# Runs a command in place of the script, or prints it.
run() {
  if [ -n "$dry_run" ]; then
    command_line "$@"
  else
    exec "$@"
  fi
}

# run_on FILE COMMAND...: the same for a command that reads a text.
run_on() {
  if [ -n "$dry_run" ]; then
    printf '%s\n' "$1"
  else
    "${@:2}" <<<"$1"
  fi
}

# ---- Slurm --------------------------------------------------------------

# batch_head SIZE OPTIONS JOB: the top of a batch script; JOB is what goes back
# into the queue. The signal is not TERM, because scancel sends that as well,
# and what was cancelled must not come back.
batch_head() {
  cat <<EOF
#!/usr/bin/env bash
#SBATCH --job-name=keras_app
$1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@60
${2}set -euo pipefail
export KERAS_BACKEND=$KERAS_BACKEND

# The time is nearly over: wait for more, and go on from the checkpoint.
trap 'scontrol requeue "$3"' USR1
EOF
}
