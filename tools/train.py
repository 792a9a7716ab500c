#!/usr/bin/env python
"""Train a model from a config; ``--help`` lists the options."""

import sys

from torch.distributed.elastic.multiprocessing.errors import record

from mmpl.apis.train import train
from mmpl.utils.preemption import EXIT_INTERRUPTED

if __name__ == '__main__':
    try:
        # Under torchrun, record() makes the summary name the rank that failed first, and its error.
        record(train)()
    except KeyboardInterrupt:  # before there was a step to save after, or the second one
        sys.exit(EXIT_INTERRUPTED)
