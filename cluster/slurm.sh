#!/usr/bin/env bash
# A sweep on a Slurm allocation: Ray on every node of it, the sweep on the first.
#
#     sbatch --nodes=4 --gpus-per-node=4 cluster/slurm.sh tuner/sweeps/paper.toml [options of run]
#
# Home and the working folder are on storage that all nodes share, as is usual; the environment was
# made once by `bash cluster/setup.sh . ~/isoflop-env`. A job that ran out of time goes on when it is
# submitted again: `run` on a sweep's folder resumes it.
#SBATCH --job-name=isoflop
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
#SBATCH --signal=B:INT@120
set -euo pipefail

if [ $# -lt 1 ]; then
    echo "usage: sbatch [options] cluster/slurm.sh SWEEP.toml [options of isoflop run]" >&2
    exit 2
fi
PATH="${ISOFLOP_ENV:-$HOME/isoflop-env}/bin:$PATH"
export PATH RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=token
umask 077
ray get-auth-token --generate >/dev/null # in ~/.ray, which all nodes see

head="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
address="$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname -I | awk '{print $1}')"
port=$((20000 + SLURM_JOB_ID % 20000)) # two jobs may share a node's network
tasks=()

# The script's children end with the job; `ray stop` would end other jobs' Ray on a shared node.
finish() { for task in "${tasks[@]}"; do kill "$task" 2>/dev/null || true; done; }
trap finish EXIT

srun --nodes=1 --ntasks=1 --nodelist="$head" --overlap bash -c "
    ulimit -n 65536 || true
    exec ray start --head --block --node-ip-address=$address --port=$port \
        --num-cpus=0 --num-gpus=0 --dashboard-host=127.0.0.1 --temp-dir=/tmp/ray-$SLURM_JOB_ID" &
tasks+=($!)
until ray health-check --address "$address:$port" 2>/dev/null; do
    kill -0 "${tasks[0]}" # the head died: say so and stop
    sleep 1
done
# Every node trains, the first one too: beside the head that only keeps the books.
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --overlap bash -c "
    ulimit -n 65536 || true
    exec ray start --block --address=$address:$port --temp-dir=/tmp/ray-$SLURM_JOB_ID" &
tasks+=($!)

isoflop run "$@" --yes --address "$address:$port" &
sweep=$!
trap 'kill -INT $sweep' INT # Slurm's warning: everything finished is kept
wait "$sweep" || { code=$?; wait "$sweep" 2>/dev/null || code=$?; exit "$code"; }
