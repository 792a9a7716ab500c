#!/usr/bin/env python
"""Evaluate a checkpoint as a config says; ``--help`` lists the options."""

from torch.distributed.elastic.multiprocessing.errors import record

from mmpl.apis.test import test

if __name__ == '__main__':
    # Under torchrun, record() makes the summary name the rank that failed first, and its error.
    record(test)()
