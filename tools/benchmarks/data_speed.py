#!/usr/bin/env python
"""Images/s per core of two input pipelines, in turns in one process, on JPEGs made from real photographs.

By default that of the fast preset against that of mmpretrain's MAE; the last line of the output is one JSON object.

    python tools/benchmarks/data_speed.py
    python tools/benchmarks/data_speed.py --photo-size 1600 1200
"""

from mmpl.apis.data_speed import main

if __name__ == '__main__':
    main()
