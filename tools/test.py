#!/usr/bin/env python
"""Evaluate a checkpoint as a config says; ``--help`` lists the options."""

from mmpl.apis.test import test
from mmpl.apis.train import run_tool

if __name__ == '__main__':
    run_tool(test)
