#!/usr/bin/env python
"""Two pre-training configs against each other, in turns (A B A B ...): masked views/s, step time by part, memory.

By default the fast preset against mmpretrain's MAE; the last line of the output is one JSON object, whose ``ratio`` is
A's masked views/s over B's.

    python tools/benchmarks/pretrain_speed.py --views 64 --dtype bfloat16
    python tools/benchmarks/pretrain_speed.py --a configs/pl_mae_vitb.py --views 8
    python tools/benchmarks/pretrain_speed.py --processes 2 --threads 1        # data-parallel over gloo
"""

from mmpl.apis.pretrain_speed import main

if __name__ == '__main__':
    main()
