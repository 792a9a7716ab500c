"""The command ``mmpl``: pre-training on a folder, features of one's own images, and the tools under one name."""

import argparse
import ast
import contextlib
import hashlib
import json
import os
import runpy
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmpl.utils.user_errors import UserError, user_errors

TOOLS = {  # command -> tool, and what it does
    'check': ('check_dataset.py', 'find images that cannot be trained on'),
    'probe': ('benchmarks/evaluate_features.py', 'kNN and linear probe of a checkpoint'),
    'report': ('visualizations/report.py', 'one page about a pre-training run'),
    'export': ('model_converters/export_backbone.py', 'hand an encoder to mmpretrain, timm or Hugging Face'),
}
CHUNK = 512  # images computed between two files on the disk
LISTED = 20  # skipped files that are printed
PICTURES = ('.png', '.jpg', '.jpeg', '.pdf', '.svg')
_WRITTEN = ('epoch', 'iter', 'time', 'source', 'mmpl_version', 'mmengine_version')  # in a checkpoint's `meta`


class CommandError(UserError):
    """What was asked for cannot be done; the message says why."""


def parser() -> argparse.ArgumentParser:
    """The command line; nothing heavy is imported for it."""
    top = argparse.ArgumentParser(prog='mmpl', description=__doc__)
    commands = top.add_subparsers(dest='command', required=True, metavar='COMMAND')

    pre = commands.add_parser('pretrain', help='pre-train on a folder of images')
    pre.add_argument('folder', help='folder of images; subfolders count, labels are not needed')
    pre.add_argument('--arch', help='vit-t, vit-s, vit-b or vit-l (default: by the number of images)')
    pre.add_argument(
        '--image-size', type=int, help='side in pixels (default: by the images, and the weights of --from)'
    )
    pre.add_argument('--patch-size', type=int, help='side in pixels (default: by the image size)')
    pre.add_argument('--batch-size', type=int, help='images a step (default: 64)')
    pre.add_argument('--epochs', type=int, help='default: by the number of images')
    pre.add_argument('--from', dest='start', metavar='FILE', help='continue from these weights, ours or public ones')
    load = 'how files are read, such as scaling=[27000,31000] or bands=[4,3,2]; see docs/own_images.md'
    pre.add_argument('--load', nargs='+', type=_field, metavar='KEY=VALUE', help=load)
    pre.add_argument('--work-dir', help='default: work_dirs/pretrain_<name of the folder>')
    pre.add_argument('--workers', type=int, help='processes that load images (default: one a core, at most 8)')
    pre.add_argument('--dry-run', action='store_true', help='write the config and say what it costs, but do not train')
    pre.set_defaults(run=run_pretrain)

    tune = commands.add_parser('finetune', help='fine-tune an encoder on annotations of your own')
    tune.add_argument('task', choices=('classification', 'segmentation', 'detection'))
    tune.add_argument('data', help='folder of classes; of images and label maps; or of images and COCO files')
    tune.add_argument('--checkpoint', required=True, help='of a pre-training run, or public weights')
    tune.add_argument('--source', default='student', help="student (default), or a teacher's attribute in the model")
    tune.add_argument(
        '--image-size', type=int, help="side in pixels (default: classification the encoder's, else by the images)"
    )
    tune.add_argument('--batch-size', type=int, help='images a step (default: by the task)')
    tune.add_argument('--epochs', type=int, help='default: by the task and the number of images')
    tune.add_argument('--classes', nargs='+', help='names of the classes of label maps, that of value 0 first')
    tune.add_argument('--work-dir', help='default: work_dirs/finetune_<task>_<name of the folder>')
    tune.add_argument('--workers', type=int, help='processes that load images (default: one a core, at most 4)')
    tune.add_argument('--dry-run', action='store_true', help='write the config, but do not train')
    tune.set_defaults(run=run_finetune)

    embed = commands.add_parser('embed', help='write the features of a folder of images')
    embed.add_argument('folder', help='folder of images; subfolders count')
    embed.add_argument('--checkpoint', required=True, help='of a pre-training run, or exported for mmpretrain')
    embed.add_argument('--out', required=True, type=Path, help='file to write: .npz or .parquet')
    embed.add_argument(
        '--source', default='student', help="the student (default), or a teacher's attribute in the model"
    )
    embed.add_argument('--image-size', type=int, nargs='+', help="side, or height and width (default: the encoder's)")
    embed.add_argument('--mean', type=float, nargs='+', help="mean in 0..255 (default: the config's)")
    embed.add_argument('--std', type=float, nargs='+', help="std in 0..255 (default: the config's)")
    embed.add_argument('--device', help='where to compute (default: a GPU if there is one)')
    embed.add_argument('--batch-size', type=int, default=32, help='images at once (default: 32)')
    embed.set_defaults(run=run_embed)

    near = commands.add_parser('neighbours', help='the images most similar to one')
    near.add_argument('features', type=Path, help='file that `mmpl embed` wrote')
    near.add_argument('--query', required=True, help='an image file, or the number or name of an image in the features')
    near.add_argument('--k', type=int, default=5, help='how many (default: 5)')
    near.add_argument('--out', type=Path, help='picture to write')
    near.add_argument('--pool', choices=('cls', 'mean'), help='which features (default: cls where there are any)')
    near.add_argument('--checkpoint', help='for an image file, if the checkpoint was moved')
    near.add_argument('--folder', help='for the picture, if the images were moved')
    near.set_defaults(run=run_neighbours)

    info = commands.add_parser('info', help='what a checkpoint holds')
    info.add_argument('checkpoint')
    info.set_defaults(run=run_info)
    for writing in (pre, tune):
        writing.add_argument(
            '--mean',
            type=float,
            nargs=3,
            help="mean in 0..255 (default: the weights', and without weights the images')",
        )
        writing.add_argument('--std', type=float, nargs=3, help='std in 0..255 (default: as the mean)')
    for loading in (pre, tune, embed, near, info):
        loading.add_argument('--trust', action='store_true', help='the checkpoint may run code')
    for name, (_, text) in TOOLS.items():
        commands.add_parser(name, help=f'{text} (`mmpl {name} --help`)', add_help=False)
    return top


@contextlib.contextmanager
def _stack_is_there() -> Iterator[None]:
    """Name what brings OpenMMLab's packages where one of them is missing: there are two, and mmpl asks for neither."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ('mmengine', 'mmcv', 'mmpretrain', 'mmseg', 'mmdet'):
            raise
        raise CommandError(
            f"{error.name} is not installed: `pip install 'mmpl[onedl]'`, or 'mmpl[upstream]', brings OpenMMLab's "
            'packages'
        ) from error


@user_errors()
@_stack_is_there()
def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in TOOLS:
        return _run_tool(argv[0], argv[1:])
    args = parser().parse_args(argv)
    return args.run(args)


def _run_tool(name: str, argv: list[str]) -> int:
    package = Path(__file__).resolve().parent
    places = [folder / 'tools' / TOOLS[name][0] for folder in (package / '.mim', package.parent)]
    tool = next((place for place in places if place.is_file()), None)
    if tool is None:
        raise CommandError(f'`mmpl {name}` needs {TOOLS[name][0]}, which is neither of {", ".join(map(str, places))}')
    kept, sys.argv = sys.argv, [f'mmpl {name}', *argv]
    try:
        return runpy.run_path(str(tool), run_name='mmpl_tool')['main']() or 0
    finally:
        sys.argv = kept


# ---- mmpl pretrain, mmpl finetune


def run_pretrain(args: argparse.Namespace) -> int:
    """Write the config of a run, and run it."""
    from mmpl.apis.pretrain import pretrain

    asked = _asked(args)
    load = asked.pop('load')
    pretrain(loading=None if load is None else dict(load), **asked)
    return 0


def run_finetune(args: argparse.Namespace) -> int:
    """The same for annotated images."""
    from mmpl.apis.finetune import finetune

    config = finetune(**_asked(args))
    print(f'config {config}; checkpoints are in {config.with_suffix("")}')
    return 0


def _field(text: str) -> tuple[str, Any]:
    key, mark, value = text.partition('=')
    if not (key and mark):
        raise argparse.ArgumentTypeError(f'expected KEY=VALUE, but got {text!r}')
    with contextlib.suppress(ValueError, SyntaxError):
        return key, ast.literal_eval(value)
    return key, value


def _asked(args: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(args).items() if name not in ('command', 'run')}


# ---- mmpl embed


def run_embed(args: argparse.Namespace) -> int:
    """Write the features of a folder, in chunks that a second start goes on from."""
    if args.out.suffix not in ('.npz', '.parquet'):
        raise CommandError(f'--out must end in .npz or .parquet, but got {str(args.out)!r}')
    if args.out.suffix == '.parquet':
        _parquet()
    if args.image_size and len(args.image_size) > 2:
        raise CommandError(f'--image-size must be a side, or height and width, but got {args.image_size}')
    if not Path(args.folder).is_dir():
        raise FileNotFoundError(f'{args.folder!r} is no folder')
    from tqdm import tqdm

    from mmpl.checkpoints.encoders import read_checkpoint
    from mmpl.compat import set_load_policy
    from mmpl.datasets.unlabelled_folder import UnlabelledFolder
    from mmpl.evaluation.extractor import FeatureExtractor
    from mmpl.utils.paths import absolute

    set_load_policy(args.trust)
    checkpoint = read_checkpoint(args.checkpoint)
    size = args.image_size[0] if args.image_size and len(args.image_size) == 1 else args.image_size
    extractor = FeatureExtractor(
        checkpoint,
        args.source,
        image_size=size,
        mean=args.mean,
        std=args.std,
        device=args.device,
        batch_size=args.batch_size,
    )
    dataset = UnlabelledFolder(data_root=args.folder)
    files = [dataset.get_data_info(index)['img_path'] for index in range(len(dataset))]
    made_of = dict(
        images=_listing_digest(args.folder, files),
        encoder=checkpoint.digest(args.source),
        image_size=list(extractor.image_size),
        normalisation=dict(mean=extractor.fed.mean, std=extractor.fed.std, bgr=extractor.fed.bgr),
        loader=extractor.loader_cfg,
    )
    meta = dict(
        made_of=json.loads(json.dumps(made_of, default=str)),
        folder=os.path.abspath(args.folder),
        checkpoint=absolute(args.checkpoint),
        source=args.source,
    )
    if args.out.exists():
        _refuse_to_mix(read_features(args.out)[1]['made_of'], meta['made_of'], args.out)
        print(f'{args.out} is there already, of the same images and encoder')
        return 0
    parts = args.out.with_name(args.out.name + '.parts')
    done = _open_parts(parts, meta)
    skipped: list[tuple[str, str]] = []
    with tqdm(total=len(files), initial=min(len(files), done * CHUNK), unit='image', disable=None) as bar:
        for index in range(done, -(-len(files) // CHUNK)):
            _write_part(parts, index, extractor, files[index * CHUNK : (index + 1) * CHUNK], args.folder, bar)
    columns, skipped = _joined_parts(parts, -(-len(files) // CHUNK))
    for name, reason in skipped[:LISTED]:
        print(f'skipped {name}: {reason}')
    if len(skipped) > LISTED:
        print(f'... and {len(skipped) - LISTED} more; all are in the file, under `meta`')
    if not len(columns['name']):
        raise CommandError(f'none of the {len(files)} images in {args.folder!r} can be read; nothing was written')
    _save(args.out, columns, dict(meta, skipped=skipped))
    shutil.rmtree(parts)
    widths = ', '.join(f'{name} {columns[name].shape[1]}' for name in ('cls', 'mean') if name in columns)
    print(f'wrote {args.out}: {len(columns["name"])} images ({widths}), {len(skipped)} skipped')
    return 0


def _listing_digest(folder: str, files: list[str]) -> str:
    """Of the names, sizes and times of the files of a folder: another one if a file was added, changed or removed."""
    digest = hashlib.sha256()
    for file in files:
        found = os.stat(file)
        digest.update(json.dumps([os.path.relpath(file, folder), found.st_size, found.st_mtime_ns]).encode())
    return f'{len(files)} files {digest.hexdigest()[:32]}'


def _refuse_to_mix(there: dict[str, Any], wanted: dict[str, Any], place: Path) -> None:
    for name, value in wanted.items():
        if there.get(name) != value:
            raise CommandError(
                f'{place} was made of other {name} ({there.get(name)}) than asked for now ({value}): name another '
                '--out, or delete it'
            )


def _open_parts(parts: Path, meta: dict[str, Any]) -> int:
    """How many parts an earlier start, of the same images and encoder, has written."""
    note = parts / 'meta.json'
    if note.is_file():
        _refuse_to_mix(json.loads(note.read_text(encoding='utf-8'))['made_of'], meta['made_of'], parts)
    else:
        parts.mkdir(parents=True, exist_ok=True)
        _publish(note, lambda file: file.write(json.dumps(meta).encode()))
    done = 0
    while (parts / f'{done:06d}.npz').is_file():
        done += 1
    if done:
        print(f'going on after {done * CHUNK} images, which are in {parts}')
    return done


def _publish(path: Path, write: Any) -> None:
    """Write a file that is there as a whole or not at all."""
    rough = path.with_name(path.name + '.tmp')
    with open(rough, 'wb') as file:
        write(file)
    os.replace(rough, path)


def _write_part(parts: Path, index: int, extractor: Any, files: list[str], folder: str, bar: Any) -> None:
    import numpy as np

    skipped: list[tuple[str, str]] = []
    rows: dict[str, list] = dict(name=[], cls=[], mean=[])
    for start in range(0, len(files), extractor.batch_size):
        chunk = files[start : start + extractor.batch_size]
        there = [file for file in chunk if os.path.isfile(file)]
        skipped += [(file, 'vanished: no such file') for file in chunk if file not in there]
        features = extractor(there, skipped) if there else None
        bar.update(len(chunk))
        if not features:
            continue
        rows['name'] += [os.path.relpath(path, folder) for path in features.paths]
        rows['mean'].append(features.mean)
        rows['cls'] += [] if features.cls is None else [features.cls]
    columns = {name: np.concatenate(values) for name, values in rows.items() if values and name != 'name'}
    names = [(os.path.relpath(path, folder), reason) for path, reason in skipped]
    note = np.array(json.dumps(names))
    _publish(
        parts / f'{index:06d}.npz',
        lambda file: np.savez(file, name=np.array(rows['name'], dtype=str), skipped=note, **columns),
    )


def _joined_parts(parts: Path, count: int) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    import numpy as np

    rows: dict[str, list] = {}
    skipped: list[tuple[str, str]] = []
    for index in range(count):
        with np.load(parts / f'{index:06d}.npz') as part:
            skipped += [(name, reason) for name, reason in json.loads(str(part['skipped']))]
            for name in part.files:
                if name != 'skipped' and len(part['name']):
                    rows.setdefault(name, []).append(part[name])
    return {name: np.concatenate(values) for name, values in rows.items()} or dict(name=np.array([], str)), skipped


# ---- files of features


def _parquet() -> Any:
    try:
        import pandas
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise CommandError(f'.parquet needs the package {error.name!r}: pip install mmpl[parquet]') from error
    return pandas


def _save(path: Path, columns: dict[str, Any], meta: dict[str, Any]) -> None:
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == '.npz':
        _publish(path, lambda file: np.savez(file, meta=np.array(json.dumps(meta)), **columns))
        return
    table = _parquet().DataFrame({name: list(values) for name, values in columns.items()})
    table.attrs = dict(mmpl=json.dumps(meta))
    _publish(path, lambda file: table.to_parquet(file, engine='pyarrow', index=False))


def read_features(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read what ``mmpl embed`` wrote.

    Returns:
        Columns: ``name`` (N,), ``mean`` (N, D) and, if the encoder has a class token, ``cls`` (N, D); and ``meta``,
        what they were made of.

    Raises:
        CommandError: If it is another kind of file.
    """
    import numpy as np

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'features {str(path)!r} do not exist')
    try:
        if path.suffix == '.parquet':
            table = _parquet().read_parquet(path, engine='pyarrow')
            columns = {name: np.stack(table[name]) if name != 'name' else table[name].to_numpy(str) for name in table}
            return columns, json.loads(table.attrs['mmpl'])
        with np.load(path) as file:
            columns = {name: file[name] for name in file.files}
        return columns, json.loads(str(columns.pop('meta')))
    except CommandError:
        raise
    except Exception as error:  # numpy and pyarrow raise nearly anything
        raise CommandError(f'{str(path)!r} is no file that `mmpl embed` wrote ({type(error).__name__})') from error


# ---- mmpl neighbours


def run_neighbours(args: argparse.Namespace) -> int:
    """Print the nearest images by cosine, and draw them."""
    import numpy as np

    if args.out and args.out.suffix.lower() not in PICTURES:
        raise CommandError(f'--out must end in one of {", ".join(PICTURES)}, but got {str(args.out)!r}')
    columns, meta = read_features(args.features)
    names = [str(name) for name in columns['name']]
    pool = args.pool or ('cls' if 'cls' in columns else 'mean')
    if pool not in columns:
        raise CommandError(f"--pool must be 'mean': {args.features} has no class tokens")
    own, query, shown = _query(args, meta, names, columns[pool], pool)
    room = len(names) - (own is not None)
    if not 1 <= args.k <= room:
        raise CommandError(f'--k must be in 1..{room} with {room} other images, but got {args.k}')
    rows = columns[pool] / np.linalg.norm(columns[pool], axis=1, keepdims=True).clip(1e-12)
    cosines = rows @ (query / max(1e-12, float(np.linalg.norm(query))))
    if own is not None:
        cosines[own] = -np.inf  # an image is no neighbour of its own
    best = np.argsort(-cosines, kind='stable')[: args.k]
    print(f'query: {shown} ({pool})')
    for rank, index in enumerate(best, 1):
        print(f'{rank:4d}  {cosines[index]:7.4f}  {names[index]}')
    if args.out:
        folder = Path(args.folder or meta['folder'])
        query_file = folder / shown if own is not None else Path(shown)
        found = [(folder / names[index], float(cosines[index])) for index in best]
        _draw(args.out, query_file, found, meta['made_of']['loader'])
        print(f'wrote {args.out}')
    return 0


def _query(
    args: argparse.Namespace, meta: dict[str, Any], names: list[str], rows: Any, pool: str
) -> tuple[int | None, Any, str]:
    """Row of the query in the features, if it is one of them; its feature (D,); and its name or file."""
    if args.query in names or args.query.lstrip('-').isdigit():
        index = names.index(args.query) if args.query in names else int(args.query)
        if not 0 <= index < len(names):
            raise CommandError(f'--query must be an image file or in 0..{len(names) - 1}, but got {index}')
        return index, rows[index], names[index]
    if not Path(args.query).is_file():
        raise CommandError(f'--query {args.query!r} is neither a file nor an image (number or name) of the features')
    from mmpl.checkpoints.encoders import read_checkpoint
    from mmpl.compat import set_load_policy
    from mmpl.evaluation.extractor import FeatureExtractor

    set_load_policy(args.trust)
    made_of = meta['made_of']
    checkpoint = read_checkpoint(args.checkpoint or meta['checkpoint'])
    if checkpoint.digest(meta['source']) != made_of['encoder']:
        raise CommandError(
            f'{checkpoint.path} is not the encoder that made {args.features}: their features cannot be compared'
        )
    used = made_of['normalisation']
    extractor = FeatureExtractor(
        checkpoint, meta['source'], image_size=made_of['image_size'], mean=used['mean'], std=used['std']
    )
    return None, getattr(extractor(args.query), pool)[0], args.query


def _draw(out: Path, query: Path, found: list[tuple[Path, float]], loader_cfg: dict[str, Any]) -> None:
    """Draw images as the encoder was given them."""
    from matplotlib.figure import Figure

    from mmpl.evaluation.extractor import build_loader
    from mmpl.visualization.pictures import printable, short

    load = build_loader(loader_cfg, str(out))
    shown = [(query, 'query'), *((file, f'{cosine:.3f}') for file, cosine in found)]
    if missing := [str(file) for file, _ in shown if not file.is_file()]:
        raise CommandError(f'the picture needs {missing[0]!r}, which is not there: give --folder')
    columns = min(6, len(shown))
    lines = -(-len(shown) // columns)
    figure = Figure(figsize=(1.8 * columns, 2.1 * lines), layout='constrained')
    for index, (file, title) in enumerate(shown, 1):
        axes = figure.add_subplot(lines, columns, index)
        pixels = load(dict(img_path=str(file)))['img']
        grey = pixels.ndim == 2 or pixels.shape[2] != 3  # of many channels the first
        if grey:
            axes.imshow(pixels if pixels.ndim == 2 else pixels[..., 0], cmap='gray', vmin=0, vmax=255)
        else:
            axes.imshow(pixels[..., ::-1])
        axes.set_title(f'{title}\n{short(printable(file.name), 24)}', fontsize=8, parse_math=False)
        axes.axis('off')
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)


# ---- mmpl info


def run_info(args: argparse.Namespace) -> int:
    """Print what a checkpoint holds, and what of it a feature extractor would use."""
    from mmpl.checkpoints.encoders import read_checkpoint
    from mmpl.compat import set_load_policy
    from mmpl.evaluation.extractor import ExtractorError, normalisation_of
    from mmpl.export import ExportError
    from mmpl.export.spec import loader_of, spec_of

    set_load_policy(args.trust)
    checkpoint = read_checkpoint(args.checkpoint)
    config = checkpoint.config
    print(f'checkpoint   {checkpoint.path}: {len(checkpoint.state_dict)} tensors, layout of {checkpoint.layout}')
    state, whole = _wholeness(Path(args.checkpoint))
    print(f'whole        {state}')
    written = [f'{name} {checkpoint.meta[name]}' for name in _WRITTEN if checkpoint.meta.get(name) is not None]
    print(f'written      {", ".join(written) or "not said when, nor by what"}')
    channels = 3
    print(f'model        {(config.get("model") or {}).get("type", "a bare backbone") if config else "no config"}')
    for source in checkpoint.sources:
        tensors = checkpoint.encoder(source)
        try:
            spec = spec_of(tensors, config)
            channels, text = spec.in_channels, str(spec)
        except ExportError as error:
            text = f'architecture not told: {error}'
        print(f'encoder      {source}: {sum(value.numel() for value in tensors.values()):,} parameters; {text}')
    if not checkpoint.sources:
        print('encoder      none')
    try:
        fed = normalisation_of(config, channels, None, None, checkpoint.path)
        order = 'any' if channels != 3 else 'BGR' if fed.bgr else 'RGB'
        print(f'normalised   mean {list(fed.mean)}, std {list(fed.std)}, channels: {order}')
    except ExtractorError:
        print('normalised   not said: features need --mean and --std')
    print(f'read by      {loader_of(config)}')
    return 0 if whole else 1


def _wholeness(path: Path) -> tuple[str, bool]:
    """Whether a file is as it was written, in words, and False if it is not."""
    import zipfile

    from mmpl.checkpoints.files import damage, record_of

    recorded = path.is_file() and record_of(path).is_file()
    if not recorded and not (path.is_file() and zipfile.is_zipfile(path)):
        return 'not told by this kind of file', True
    if wrong := damage(path):
        return f'no: {wrong}', False
    return 'yes, by the SHA-256 beside it' if recorded else 'yes, by the checksums inside of it', True


if __name__ == '__main__':
    sys.exit(main())
