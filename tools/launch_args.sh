# shellcheck shell=bash
# Sourced by dist_train.sh and dist_test.sh: turns NPROC and the environment into TORCHRUN_ARGS.

NNODES=${NNODES:-1}
if [ "$NNODES" = 1 ] && [ -z "${PORT:-}" ] && [ -z "${MASTER_ADDR:-}" ]; then
    # One machine: any free port, so that two runs do not collide.
    TORCHRUN_ARGS=(--standalone --nnodes=1)
else
    TORCHRUN_ARGS=(
        --nnodes="$NNODES"
        --node-rank="${NODE_RANK:-0}"
        --master-addr="${MASTER_ADDR:-127.0.0.1}"
        --master-port="${PORT:-29500}"
    )
fi
# torchrun would give restarted processes the store of those that died, with their addresses in it: they then wait for a
# dead process until the timeout of half an hour. This way each start has a store of its own.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE="${TORCH_DISABLE_SHARE_RDZV_TCP_STORE:-1}"
TORCHRUN_ARGS+=(--nproc-per-node="$NPROC" --max-restarts="${MAX_RESTARTS:-0}")

# Without a GPU the processes share the cores; torchrun's own default is one thread each.
if [ -z "${OMP_NUM_THREADS:-}" ] && { [ "${CUDA_VISIBLE_DEVICES:-}" = -1 ] || ! command -v nvidia-smi >/dev/null; }; then
    THREADS=$(($(nproc) / NPROC))
    export OMP_NUM_THREADS=$((THREADS > 0 ? THREADS : 1))
fi
