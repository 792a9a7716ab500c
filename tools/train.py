#!/usr/bin/env python
"""Train a model from a config; ``--help`` lists the options."""

from torch.distributed.elastic.multiprocessing.errors import record

from mmpl.apis.train import train

if __name__ == '__main__':
    # Under torchrun, record() makes the summary name the rank that failed first, and its error.
    record(train)()
