"""Bring public weights of a plain ViT to the names of OpenMMLab: MAE's official files, timm's, Hugging Face's.

python tools/model_converters/import_weights.py mae_pretrain_vit_base.pth mae_vitb.pth
"""

import argparse

from mmpl.checkpoints import import_weights
from mmpl.compat import add_trust_argument, set_load_policy
from mmpl.utils.user_errors import user_errors


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', help='file (torch or safetensors), or folder of transformers')
    parser.add_argument('out', help='checkpoint to write')
    add_trust_argument(parser)
    return parser.parse_args()


@user_errors()
def main() -> None:
    """Import, and say what was found."""
    args = parse_args()
    set_load_policy(args.trust)
    print(import_weights(args.source, args.out).origin())
    print(f'wrote {args.out}')


if __name__ == '__main__':
    main()
