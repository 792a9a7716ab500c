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
PORT=${PORT:-${MASTER_PORT:-}}  # torchrun's name, too
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
    # A machine is known to the others by the address that it is reached at, not by a name that they may not resolve.
    LOCAL=$("${PYTHON:-python}" - "${MASTER_ADDR:-127.0.0.1}" "${PORT:-29500}" "${NODE_RANK:-0}" <<'EOF'
import socket
import sys

host, port, node_rank = sys.argv[1:]
try:
    family, kind, _, _, address = socket.getaddrinfo(host, int(port), type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as link:
        link.connect(address)  # sends nothing: it chooses the interface
        print(host if node_rank == '0' else link.getsockname()[0])
except OSError as err:
    sys.exit(f"error: MASTER_ADDR '{host}' cannot be reached: {err}")
EOF
    ) || exit 2
    # Not torchrun's static way (--master-addr): that gives restarted processes the store of those that died, with
    # their addresses in it, and does not tell the other machines of a restart.
    TORCHRUN_ARGS=(
        --nnodes="$NNODES"
        --rdzv-backend=c10d
        --rdzv-endpoint="${MASTER_ADDR:-127.0.0.1}:${PORT:-29500}"
        --rdzv-id=mmpl
        --rdzv-conf="is_host=$([ "${NODE_RANK:-0}" = 0 ] && echo true || echo false)"
        --local-addr="$LOCAL"
    )
fi
# Each start gets a store of its own, not torchrun's, in which restarted processes would find the addresses of dead ones
# and wait for these until the timeout of half an hour.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE="${TORCH_DISABLE_SHARE_RDZV_TCP_STORE:-1}"
TORCHRUN_ARGS+=(--nproc-per-node="$NPROC" --max-restarts="${MAX_RESTARTS:-0}")

# Without a GPU the processes share the cores; torchrun's own default is one thread each.
if [ -z "${OMP_NUM_THREADS:-}" ] && { [ "${CUDA_VISIBLE_DEVICES:-}" = -1 ] || ! command -v nvidia-smi >/dev/null; }; then
    THREADS=$(($(nproc) / NPROC))
    export OMP_NUM_THREADS=$((THREADS > 0 ? THREADS : 1))
fi
