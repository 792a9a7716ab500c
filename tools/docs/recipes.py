"""The tables of ``docs/recipes.md``, read from the configs.

``python tools/docs/recipes.py --write`` puts them into the page; a test compares the two.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

import mmpl.methods  # noqa: F401  (some bring masks of their own)
from mmpl.registry import MODELS
from mmpl.utils.run_length import resolve_length

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / 'docs' / 'recipes.md'
BEGIN, END = '<!-- {} from tools/docs/recipes.py -->', '<!-- end -->'
NONE = '–'


def _number(value: float) -> str:
    return f'{value:,}' if isinstance(value, int) else f'{value:.4g}'


def _encoder(backbone: Mapping) -> str:
    arch = backbone['arch']
    names = {'b': 'ViT-B', 'l': 'ViT-L', 'h': 'ViT-H', 'deit-s': 'ViT-S', 'deit-t': 'ViT-Ti'}
    if backbone['type'] == 'mmpl.MaskedSwin':
        names = dict(base='Swin-B')
    if isinstance(arch, str):
        return names[arch]
    blocks = ' + '.join(map(str, arch['depths'])) if 'depths' in arch else arch['num_layers']
    return f'{arch["embed_dims"]} wide, {blocks} blocks'


def _rate(cfg: Config) -> str:
    rate = _number(cfg.optim_wrapper.optimizer.lr)
    scaled = cfg.get('auto_scale_lr') or {}
    return f'{rate} for {scaled["base_batch_size"]:,}' if scaled.get('enable') else rate


def recipe(path: Path) -> list[str]:
    """The row of a config, as mmpl's train.py reads it."""
    cfg = Config.fromfile(path)
    resolve_length(cfg, path)
    model, backbone, neck = cfg.model, cfg.model.backbone, cfg.model.neck
    masking = MODELS.build(dict(dict(type='mmpl.RandomMasking'), **model.masking))
    labels = model.get('label_head')
    prototypes = NONE
    if labels:
        of_data = (model.get('data_label_head') or {}).get('num_prototypes', labels.num_prototypes)
        prototypes = f'{labels.num_prototypes:,} / {of_data:,}'
    width = neck.get('decoder_embed_dims', "the encoder's")  # a decoder without one is as wide as the encoder
    return [
        f'[`{path.stem}`](../configs/{path.name})',
        _encoder(backbone),
        f'{backbone.img_size} / {backbone.patch_size}',
        _number(cfg.train_dataloader.batch_size),
        _rate(cfg),
        f'{_number(cfg.param_scheduler[0].end)} / {_number(cfg.train_cfg.max_epochs)}',
        f'{masking.num_masks} x {_number(float(masking.mask_ratio))}, {_number(float(masking.predict_ratio))}',
        f'{width} x {neck.depth}',
        prototypes,
    ]


def _leaves(node: Any, path: str = '') -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping) and node:
        for name, value in node.items():
            yield from _leaves(value, f'{path}.{name}' if path else name)
    else:
        yield path, node


def _short(value: Any) -> str:
    """A value, and of a list of transforms their types."""
    if isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
        return f'[{", ".join(item["type"] for item in value)}]'
    return repr(value)


def changes(path: Path) -> list[str]:
    """The row of an ablation: the fields of the model and the pipeline in which it differs from the config it is of."""
    base = 'msa_vitb.py' if path.stem.startswith('msa') else 'pl_mae_vitb.py'
    own, other = (
        dict(_leaves(dict(model=cfg.model, transform=cfg.train_dataloader.dataset.pipeline[1])))
        for cfg in (Config.fromfile(path), Config.fromfile(ROOT / 'configs' / base))
    )
    fields = [f'`{name}={_short(value)}`' for name, value in own.items() if value != other.get(name)]
    fields += [f'without `{name}`' for name in other if name not in own]
    return [f'[`{path.stem}`](../configs/ablations/{path.name})', ', '.join(fields)]


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ['---'] * len(heads), *rows]
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)


def tables() -> dict[str, str]:
    """The tables of the page by name."""
    heads = [
        'config',
        'encoder',
        'image / patch',
        'batch',
        'learning rate',
        'warm-up / epochs',
        'masks x hidden, predicted',
        'decoder',
        'prototypes',
    ]
    presets = [recipe(path) for path in sorted((ROOT / 'configs').glob('*.py'))]
    ablations = [changes(path) for path in sorted((ROOT / 'configs' / 'ablations').glob('*.py'))]
    return dict(presets=_table(heads, presets), ablations=_table(['config', 'what differs'], ablations))


def filled(text: str) -> str:
    """The page with the tables of today's configs."""
    for name, table in tables().items():
        before, found, rest = text.partition(BEGIN.format(name))
        if not found:
            raise ValueError(f'{PAGE}: has no line {BEGIN.format(name)!r}')
        text = f'{before}{found}\n\n{table}\n\n{END}{rest.partition(END)[2]}'
    return text


def main() -> int:
    """Write the page, or say whether it is that of the configs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--write', action='store_true', help='put the tables into the page')
    options = parser.parse_args()
    text = PAGE.read_text(encoding='utf-8')
    new = filled(text)
    if options.write:
        PAGE.write_text(new, encoding='utf-8')
    elif new != text:
        print(f'{PAGE} differs from the configs: run it with --write')
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
