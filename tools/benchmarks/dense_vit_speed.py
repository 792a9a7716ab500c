#!/usr/bin/env python
"""Window attention against global attention: time and activation memory of one training step of ``mmpl.DenseViT``.

Activation memory is the sum of the tensors that autograd keeps for the backward pass, each storage counted once and
parameters left out: the same number on CPU and CUDA. On CUDA the peak of the allocator is printed as well.

Fused attention keeps no N x N matrix, so windows save time but no activation memory against it; ``--math`` measures
plain attention, which keeps one per head and block, as relative positions on a CPU do (there the fused kernel wants
query, key and value of one width).

ViT-B at 1024 x 1024, batch 1, windowed / all-global; time on two cores:

- relative positions, windows of 16 in every block: time 0.23 (19.4 of 83.1 s), activation memory 0.28 (3,504 of
  12,736 MiB);
- the same with four global blocks, as in ViTDet: time 0.64, activation memory 0.52, arithmetic 0.59;
- no relative positions, windows of 14, four global blocks, fused attention: time 0.74, activation memory 1.03,
  arithmetic 0.70.

Global blocks keep their cost, so four of twelve bound what windows can save. ``--device meta`` counts memory (of plain
attention) and arithmetic, without computing anything::

    python tools/benchmarks/dense_vit_speed.py --size 1024 --rel-pos --window 16 --global-blocks
    python tools/benchmarks/dense_vit_speed.py --size 1024 --rel-pos --window 16
    python tools/benchmarks/dense_vit_speed.py --size 1024 --rel-pos --device meta
"""

import argparse
import json
import statistics
import time
from contextlib import nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mmpl.models.backbones import DenseViT
from mmpl.utils.fields import check_device
from mmpl.utils.user_errors import user_errors


def kept_bytes(model: torch.nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Run the forward pass; return a loss and the bytes that it keeps for the backward pass."""
    parameters = {p.untyped_storage()._cdata for p in model.parameters()}  # an address of data is 0 on `meta`
    kept: dict[int, int] = {}
    alive = []  # no address may be used twice

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            kept[storage._cdata] = storage.nbytes()
            alive.append(storage)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(images)[0].float().square().mean()
    return loss, sum(kept.values())


def measure(window_size: int, args: argparse.Namespace) -> dict:
    """Median time of a forward and backward pass, and activation memory; without windows every block is global."""
    torch.manual_seed(0)
    model = DenseViT(
        args.arch,
        window_size=window_size,
        global_attn_indexes=args.global_blocks if window_size else None,
        rel_pos=args.rel_pos,
        with_cp=args.with_cp,
    ).to(args.device)
    model.train()
    images = torch.randn(args.batch, 3, args.size, args.size, device=args.device)
    cuda = images.is_cuda
    seconds, memory, peak = [], 0, 0
    flops = FlopCounterMode(display=False)
    for _ in range(1 if args.device == 'meta' else args.warmup + args.iterations):
        model.zero_grad(set_to_none=True)
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        plain = sdpa_kernel([SDPBackend.MATH]) if args.math else nullcontext()
        with plain, flops if args.device == 'meta' else nullcontext():
            loss, memory = kept_bytes(model, images)
            loss.backward()
        if cuda:
            torch.cuda.synchronize()
            peak = torch.cuda.max_memory_allocated()
        seconds.append(time.perf_counter() - start)
    result: dict[str, float] = {'window_size': window_size, 'activation_bytes': memory}
    if args.device == 'meta':
        return {**result, 'flops': flops.get_total_flops()}
    result['seconds'] = statistics.median(seconds[args.warmup :])
    return {**result, 'cuda_peak_bytes': peak} if cuda else result


@user_errors()
def main() -> None:
    """Measure both and print a table, the ratios, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--arch', default='base', help='as in mmpl.DenseViT')
    parser.add_argument('--size', type=int, default=1024, help='image side in pixels')
    parser.add_argument('--window', type=int, default=14, help='window side in patches')
    parser.add_argument(
        '--global-blocks', type=int, nargs='*', help='of the windowed form; four as in ViTDet unless given, maybe none'
    )
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--iterations', type=int, default=2)
    parser.add_argument('--warmup', type=int, default=0)
    parser.add_argument('--threads', type=int, default=None, help='CPU threads')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--rel-pos', action='store_true')
    parser.add_argument('--math', action='store_true', help='plain attention instead of a fused kernel')
    parser.add_argument('--with-cp', action='store_true')
    args = parser.parse_args()
    check_device('--device', args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    windowed, everywhere = measure(args.window, args), measure(0, args)
    cost, unit, scale = ('flops', 'TFLOP', 1e12) if args.device == 'meta' else ('seconds', 's', 1)
    for name, result in (('windowed', windowed), ('all-global', everywhere)):
        print(f'{name:<11}{result[cost] / scale:8.2f} {unit} {result["activation_bytes"] / 2**20:9.0f} MiB kept')
    ratios = {k: windowed[k] / everywhere[k] for k in (cost, 'activation_bytes')}
    print(f'windowed / all-global: {cost} {ratios[cost]:.2f}, activation memory {ratios["activation_bytes"]:.2f}')
    print(json.dumps({'settings': vars(args), 'windowed': windowed, 'all_global': everywhere, 'ratios': ratios}))


if __name__ == '__main__':
    main()
