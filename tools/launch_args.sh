# shellcheck shell=bash
# Sourced by dist_train.sh and dist_test.sh: turns NPROC and the environment into TORCHRUN_ARGS.

die() {
    echo "error: $*" >&2
    exit 2
}
count() {  # NAME VALUE LEAST
    [[ $2 =~ ^[0-9]{1,9}$ ]] && [ "$((10#$2))" -ge "$3" ] || die "$1 must be an integer of at least $3, but got '$2'"
}

[ -f "$CONFIG" ] || die "config '$CONFIG' does not exist"
NNODES=${NNODES:-1}
count 'NPROC, the number of processes,' "$NPROC" 1
count NNODES "$NNODES" 1
count NODE_RANK "${NODE_RANK:-0}" 0
count MAX_RESTARTS "${MAX_RESTARTS:-0}" 0
[ "${NODE_RANK:-0}" -lt "$NNODES" ] || die "NODE_RANK must be below NNODES $NNODES, but got '$NODE_RANK'"
if [ "$NNODES" = 1 ] && [ -z "${PORT:-}" ] && [ -z "${MASTER_ADDR:-}" ]; then
    # One machine: any free port, so that two runs do not collide.
    TORCHRUN_ARGS=(--standalone --nnodes=1)
else
    count PORT "${PORT:-29500}" 1
    [ "${PORT:-29500}" -le 65535 ] || die "PORT must be at most 65535, but got '$PORT'"
    # The first machine listens there.
    if [ "${NODE_RANK:-0}" = 0 ] && (exec 3<>"/dev/tcp/${MASTER_ADDR:-127.0.0.1}/${PORT:-29500}") 2>/dev/null; then
        die "port ${PORT:-29500} is in use on ${MASTER_ADDR:-127.0.0.1}, by another run perhaps: give another PORT"
    fi
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
