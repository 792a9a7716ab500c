#!/usr/bin/env python
"""Train a model from a config; ``--help`` lists the options."""

import sys

from mmpl.apis.train import run_tool, train
from mmpl.utils.preemption import EXIT_INTERRUPTED

if __name__ == '__main__':
    try:
        run_tool(train)
    except KeyboardInterrupt:  # before there was a step to save after, or the second one
        sys.exit(EXIT_INTERRUPTED)
