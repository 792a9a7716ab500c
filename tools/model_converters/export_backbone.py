"""Export an encoder of a checkpoint to mmpretrain, timm or Hugging Face.

python tools/model_converters/export_backbone.py work_dirs/run/epoch_400.pth vit.pth --source student --to timm
"""

import argparse

from mmpl.compat import add_trust_argument, set_load_policy
from mmpl.export.backbone import LIBRARIES, export_backbone
from mmpl.utils.user_errors import user_errors


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', help='checkpoint file of a pre-training run')
    parser.add_argument('out', help='file to write (mmpretrain, timm) or directory (huggingface)')
    parser.add_argument(
        '--source', default='student', help="which encoder: the student (default) or a teacher's attribute in the model"
    )
    parser.add_argument('--to', choices=list(LIBRARIES), default='mmpretrain', help='library (default: mmpretrain)')
    parser.add_argument('--num-heads', type=int, help='attention heads, if the checkpoint carries no config')
    parser.add_argument(
        '--verify',
        action=argparse.BooleanOptionalAction,
        default=True,
        help='load the result with the library and compare the features of tensors and of a picture (default: on)',
    )
    add_trust_argument(parser)
    return parser.parse_args()


@user_errors()
def main() -> None:
    """Export, and say what was written."""
    args = parse_args()
    set_load_policy(args.trust)
    result = export_backbone(args.checkpoint, args.out, args.source, args.to, args.num_heads, args.verify)
    for file in result.files:
        print(f'wrote {file}')
    if result.channels_swapped:
        print('trained on BGR: the first layer, mean and std were turned to RGB')
    if result.max_difference is None:
        print('not verified')
    else:
        what = 'a picture file through both preprocessings' if result.from_picture else 'random tensors'
        print(f'verified on {what}: largest difference of any feature {result.max_difference:.3g}')


if __name__ == '__main__':
    main()
