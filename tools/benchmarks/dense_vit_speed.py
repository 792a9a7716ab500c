#!/usr/bin/env python
"""Window attention against global attention: time and activation memory of one training step of ``mmpl.DenseViT``.

Activation memory is the sum of the tensors that autograd keeps for the backward pass, each storage counted once and
parameters left out: the same number on CPU and CUDA. On CUDA the peak of the allocator is printed as well.

Fused attention keeps no N x N matrix, so windows save time but no activation memory against it; ``--math`` measures
plain attention, which keeps one per head and block, as relative positions on a CPU do.

    python tools/benchmarks/dense_vit_speed.py --size 1024 --threads 2
"""

import argparse
import json
import statistics
import time
from contextlib import nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmpl.models.backbones import DenseViT


def kept_bytes(model: torch.nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Run the forward pass; return a loss and the bytes that it keeps for the backward pass."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(images)[0].float().square().mean()
    return loss, sum(kept.values())


def measure(window_size: int, args: argparse.Namespace) -> dict:
    """Median time of a forward and backward pass, and activation memory."""
    torch.manual_seed(0)
    model = DenseViT(args.arch, window_size=window_size, rel_pos=args.rel_pos, with_cp=args.with_cp).to(args.device)
    model.train()
    images = torch.randn(args.batch, 3, args.size, args.size, device=args.device)
    cuda = images.is_cuda
    seconds, memory, peak = [], 0, 0
    for _ in range(args.warmup + args.iterations):
        model.zero_grad(set_to_none=True)
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        with sdpa_kernel([SDPBackend.MATH]) if args.math else nullcontext():
            loss, memory = kept_bytes(model, images)
            loss.backward()
        if cuda:
            torch.cuda.synchronize()
            peak = torch.cuda.max_memory_allocated()
        seconds.append(time.perf_counter() - start)
    result = {
        'window_size': window_size,
        'seconds': statistics.median(seconds[args.warmup :]),
        'activation_bytes': memory,
    }
    return {**result, 'cuda_peak_bytes': peak} if cuda else result


def main() -> None:
    """Measure both and print a table, the ratios, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--arch', default='base', help='as in mmpl.DenseViT')
    parser.add_argument('--size', type=int, default=1024, help='image side in pixels')
    parser.add_argument('--window', type=int, default=14, help='window side in patches')
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--iterations', type=int, default=2)
    parser.add_argument('--warmup', type=int, default=0)
    parser.add_argument('--threads', type=int, default=None, help='CPU threads')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--rel-pos', action='store_true')
    parser.add_argument('--math', action='store_true', help='plain attention instead of a fused kernel')
    parser.add_argument('--with-cp', action='store_true')
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    windowed, everywhere = measure(args.window, args), measure(0, args)
    for name, result in (('windowed', windowed), ('all-global', everywhere)):
        print(f'{name:<11}{result["seconds"]:8.2f} s {result["activation_bytes"] / 2**20:9.0f} MiB kept')
    ratios = {k: windowed[k] / everywhere[k] for k in ('seconds', 'activation_bytes')}
    print(f'windowed / all-global: time {ratios["seconds"]:.2f}, activation memory {ratios["activation_bytes"]:.2f}')
    print(json.dumps({'settings': vars(args), 'windowed': windowed, 'all_global': everywhere, 'ratios': ratios}))


if __name__ == '__main__':
    main()
