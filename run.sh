#!/usr/bin/env bash
# Set-up and start, on any machine with Python 3.11 or newer:
#
#   ./run.sh                          the quick start: teacher, baseline and distilled student in five minutes
#   ./run.sh test [pytest arguments]  the tests
#   ./run.sh --config=… --workdir=…   main.py with these arguments
#   ./run.sh COMMAND …                compare, evals, report, embed, weights, rank_augmentations, analysis, exits, data, config:
#                                     as `seed-jax COMMAND …`
#   ./run.sh python …                 any command in the environment
#   ./run.sh pod NAME ZONE [--dry-run] -- --config=…      main.py on every host of a Cloud TPU slice
#   ./run.sh slurm NODES GPUS -- --config=… > job.sbatch  a SLURM job, one process per GPU (docs/scale.md)
#
# ACCELERATOR=cpu|cuda|tpu  the JAX build (default: cpu)
# PYTHON=python3.12         the interpreter for a new environment
# VENV=DIR                  folder of the environment (default: .venv next to this file)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=${VENV:-$root/.venv}
[[ $venv == /* ]] || venv=$PWD/$venv
accelerator=${ACCELERATOR:-cpu}

fail() { echo "$*" >&2; exit 1; }

case $accelerator in
  cpu) jax=() ;;
  cuda) jax=('jax[cuda]') ;;
  tpu) jax=('jax[tpu]') ;;
  *) fail "ACCELERATOR is '$accelerator': use cpu, cuda or tpu." ;;
esac

usable() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3.12 python3.11 python3 python}; do
    if usable "$candidate"; then echo "$candidate"; return; fi
  done
  fail "Python 3.11 or newer with venv was not found: install it, or name one with PYTHON=…"
}

# install NAME FILE…: install the requirement files, again only if they or the accelerator change.
install() {
  local name=$1 stamp="$venv/.installed-$1" want python file arguments=()
  shift
  want=$(cat "$@" <(echo "$accelerator") | cksum)
  [[ -f $stamp && $(<"$stamp") == "$want" ]] && return
  if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then  # no environment, or an incomplete one
    python=$(find_python)
    echo "Creating an environment with $("$python" --version) in $venv"
    "$python" -m venv "$venv"
  fi
  for file in "$@"; do arguments+=(-r "$file"); done
  echo "Installing the dependencies ($name); this takes a few minutes the first time"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade pip
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${arguments[@]}" ${jax[@]+"${jax[@]}"}
  echo "$want" >"$stamp"
}

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
  exit
fi

# pod NAME ZONE [--dry-run] -- ARGS…: copy this folder to all hosts of a TPU slice and start main.py on each.
pod() {
  local run=() bundle start
  [[ ${3:-} == --dry-run ]] && run=(printf '%q ' ) && set -- "$1" "$2" "${@:4}"
  [[ $# -gt 3 && $3 == -- ]] || fail "Usage: ./run.sh pod NAME ZONE [--dry-run] -- --config=… --workdir=…"
  local tpu=$1 zone=$2
  shift 3
  bundle=${TMPDIR:-/tmp}/seed_jax.tgz
  start="mkdir -p seed_jax && tar -xzf seed_jax.tgz -C seed_jax && cd seed_jax"
  start+=" && ACCELERATOR=tpu SEED_JAX_MULTIHOST=1 ./run.sh$(printf ' %q' "$@")"
  step() { ${run[@]+"${run[@]}"} "$@"; [[ ${#run[@]} -eq 0 ]] || echo; }
  step tar -czf "$bundle" --exclude=./.git --exclude=./.venv --exclude=./runs -C "$root" .
  step gcloud compute tpus tpu-vm scp "$bundle" "$tpu:seed_jax.tgz" --zone="$zone" --worker=all
  step gcloud compute tpus tpu-vm ssh "$tpu" --zone="$zone" --worker=all --command="$start"
}

# slurm NODES GPUS -- ARGS…: print an sbatch file. Every process sees all GPUs of its node and uses one.
slurm() {
  [[ $# -gt 3 && $3 == -- ]] || fail "Usage: ./run.sh slurm NODES GPUS_PER_NODE -- --config=… --workdir=…"
  local nodes=$1 gpus=$2
  shift 3
  cat <<EOF
#!/usr/bin/env bash
#SBATCH --job-name=seed_jax
#SBATCH --nodes=$nodes
#SBATCH --ntasks-per-node=$gpus
#SBATCH --gres=gpu:$gpus
#SBATCH --cpus-per-task=${CPUS:-8}
#SBATCH --exclusive
#SBATCH --requeue
export ACCELERATOR=cuda SEED_JAX_MULTIHOST=1
$(printf '%q' "$root/run.sh") python -c pass  # create the environment before many processes need it
srun --cpus-per-task=${CPUS:-8} --kill-on-bad-exit=1 $(printf '%q' "$root/run.sh")$(printf ' %q' "$@")
EOF
}

case ${1:-} in
  pod | slurm) "$@"; exit ;;
esac

install run "$root/requirements.txt"
[[ ${1:-} == test ]] && install test "$root/requirements.txt" "$root/tests/requirements.txt"
# On a CPU, huge pages in glibc make a training step a fifth shorter (experiments/benchmarks).
[[ $accelerator == cpu ]] && export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
export PATH="$venv/bin:$PATH" PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"

case ${1:-} in
  '') exec python -m seed_jax compare "$root/experiments/quickstart" --seeds 0 ;;
  test) shift; cd "$root"; exec python -m pytest "$@" ;;
  python) exec "$@" ;;
  -*) exec python "$root/main.py" "$@" ;;
  *) exec python -m seed_jax "$@" ;;
esac
