#!/usr/bin/env python
"""Find images that cannot be trained on; ``--help`` lists the options."""

import sys

from mmpl.apis.check_dataset import main

if __name__ == '__main__':
    sys.exit(main())
