"""What works for every method without a line written for it; a method of a user's own among them, see ``toy.py``.

Every method in ``mmpl/methods`` is taken up by itself.
"""

import copy
import html
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.registry import HOOKS
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

import compare_methods
import mmpl.methods
import pretrain_speed
from bench.photos import write_photos
from mmpl.checkpoints.encoders import read_checkpoint
from mmpl.engine import FullySharded, GuardedOptimWrapper
from mmpl.evaluation import extract_features
from mmpl.export import ExportError
from mmpl.export.backbone import export_backbone
from mmpl.utils.dist import whole_tensor
from mmpl.utils.figures import measured
from mmpl.visualization import build_report
from tests.faults import runs
from tests.processes import START
from tests.test_methods.toy import Toy
from tests.test_models.helpers import scramble, tiny_cfg

OWN = [getattr(mmpl.methods, name) for name in mmpl.methods.__all__ if name not in ('Method', 'Step')]
METHODS = {method.__name__: method for method in [*OWN, Toy]}
VARIANTS = {  # parts that look at the joint batch, beside those of the methods' tiny()
    'online codes': ('CAE', dict(tokenizer=dict(type='mmpl.OnlineTokenizer', num_codes=64))),
    'discrete target': ('PLMAE', dict(head=dict(type='mmpl.TokenReconHead', target='discrete', num_codes=48))),
}
every_method = pytest.mark.parametrize('name', METHODS)
ROOT = Path(__file__).resolve().parents[2]
MEAN_STD = dict(mean=[127.0] * 3, std=[60.0] * 3)


def views_of(name: str) -> int:
    return MODELS.build(METHODS[name].tiny()).num_views


def build(name: str, **fields):
    model = MODELS.build(tiny_cfg(METHODS[name], **fields))
    model.init_weights()
    model.attach_updater('the test')
    scramble(model)
    return model.train()


def images_of(name: str, count: int = 8, seed: int = 0) -> list:
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(count, 3, 16, 16, generator=generator)
    others = [first + 0.3 * torch.randn(first.shape, generator=generator) for _ in range(views_of(name) - 1)]
    return [first, *others]


@pytest.fixture
def run_method():
    """The runs of tests/faults, which know any method by its class."""
    for name, method in METHODS.items():
        pairs = views_of(name) == 2
        data = ('NoisePairs', MEAN_STD) if pairs else ('AugmentedNoise', {})
        runs.METHODS[name] = (partial(tiny_cfg, method), *data)
    yield runs
    for name in METHODS:
        del runs.METHODS[name]


@every_method
def test_what_it_returns_is_declared_and_logged(name):
    model = build(name)
    model.track_health = True
    losses = model(images_of(name), mode='loss')
    assert set(losses) == set(model.LOSSES)
    assert all(torch.isfinite(loss) and loss.ndim == 0 and loss > 0 for loss in losses.values())
    values = measured(model.last_figures)
    model.set_length(steps=100, epochs=10)
    assert set(values) | set(model.scheduled(0.5)) | set(model.init_shares(0.5)) == set(model.figures) - {
        'align_tokens_agreement'
    }
    assert set(model.scheduled(0.5)) >= {f'momentum_{key.removesuffix("_teacher")}' for key in model.teachers}


def saved(name: str, folder: Path) -> Path:
    """A checkpoint whose teachers are not the student's copies."""
    torch.save(dict(state_dict=build(name).state_dict()), folder / 'model.pth')
    return folder / 'model.pth'


@every_method
@pytest.mark.parametrize('kind', ['Pretrained', 'mmpl.StrictPretrained'])
@pytest.mark.parametrize('prefix', [None, 'whole'])
def test_a_checkpoint_of_init_cfg_is_loaded_whole(name, kind, prefix, tmp_path):
    path = saved(name, tmp_path)
    want = torch.load(path, weights_only=True)['state_dict']
    load = dict(type=kind, checkpoint=str(path))
    if prefix is not None:
        torch.save(dict(state_dict={f'{prefix}.{key}': value for key, value in want.items()}), path)
        load['prefix'] = f'{prefix}.' if kind == 'Pretrained' else prefix
    cfg = tiny_cfg(METHODS[name])
    model = MODELS.build(dict(cfg, init_cfg=load if prefix is None else [load]))
    model.init_weights()
    got = model.state_dict()
    assert [key for key in want if not torch.equal(want[key], got[key])] == []


@pytest.mark.parametrize(
    ('name', 'part', 'prefix'),
    [
        ('PLMAE', 'neck', 'neck.'),
        ('PLMAE', 'label_head', 'label_heads.cls.'),
        ('MSA', 'align_head', 'align_heads.cls.'),
        ('CAE', 'regressor', 'regressor.'),
        ('CAE', 'neck', 'neck.'),
        ('MixedAE', 'contrast_head', 'contrast_head.'),
    ],
)
def test_a_checkpoint_of_a_parts_init_cfg_stays_as_it_was_loaded(name, part, prefix, tmp_path):
    path = saved(name, tmp_path)
    load = dict(type='mmpl.StrictPretrained', checkpoint=str(path), prefix=prefix)
    model = MODELS.build(tiny_cfg(METHODS[name], **{part: dict(init_cfg=load)}))
    model.init_weights()
    want = torch.load(path, weights_only=True)['state_dict']
    part_of = {key: value for key, value in model.state_dict().items() if key.startswith(prefix)}
    assert part_of and [key for key, value in part_of.items() if not torch.equal(want[key], value)] == []


@every_method
def test_gradients_reach_the_student_and_no_teacher(name):
    model = build(name)
    sum(model(images_of(name), mode='loss').values()).backward()
    for key, parameter in model.named_parameters():
        if 'teacher' in key or key.endswith('pos_embed'):
            assert parameter.grad is None and not parameter.requires_grad, key
        else:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, key


@every_method
def test_it_learns(name):
    torch.manual_seed(0)
    model = MODELS.build(METHODS[name].tiny())
    model.init_weights()
    model.attach_updater('the test')
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    inputs, history = images_of(name, 16), []
    for step in range(40):
        losses = model(inputs, mode='loss')
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        model.after_step(step / 40, epoch=step // 10)
        history.append(losses[next(iter(model.LOSSES))].item())
    assert sum(history[-5:]) < 0.9 * sum(history[:5])


@every_method
def test_killed_and_resumed_it_ends_in_the_same_bits(name, run_method, tmp_path):
    run_method.run(tmp_path / 'whole', method=name, epochs=2)
    run_method.stopped(tmp_path / 'parts', 8, method=name, epochs=2, checkpoint=run_method.EVERY)
    resumed = run_method.run(tmp_path / 'parts', method=name, epochs=2)
    assert resumed.iter == 12
    whole, parts = (run_method.final_state(tmp_path / part / 'epoch_2.pth') for part in ('whole', 'parts'))
    assert run_method.differences(whole, parts) == []


@HOOKS.register_module(force=True)
class PoisonAt(Hook):
    """Makes one input NaN before an iteration, and notes the teachers before and after it."""

    priority = 'LOWEST'

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter + 1 == self.iteration:
            first = data_batch['inputs'][0] if isinstance(data_batch['inputs'], list) else data_batch['inputs']
            data_batch['inputs'] = self._poisoned(data_batch['inputs'], first)
            self.before = copy.deepcopy(runner.model.state_dict())

    @staticmethod
    def _poisoned(inputs, first):
        bad = first.float().clone()
        bad[0, 0, 0, 0] = float('nan')
        return [bad, *inputs[1:]] if isinstance(inputs, list) else bad

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if runner.iter + 1 == self.iteration:
            after = runner.model.state_dict()
            counted = [key for key in after if key != 'masking.step']
            assert [key for key in counted if not torch.equal(after[key], self.before[key])] == []


@every_method
def test_a_step_with_nan_is_skipped_and_leaves_no_trace(name, run_method, tmp_path):
    poison = run_method.own_hook('PoisonAt', iteration=3)
    runner = run_method.run(tmp_path, hooks=(poison,), method=name, epochs=1)
    assert runner.message_hub.get_info('skipped_steps') == 1
    assert all(torch.isfinite(value).all() for value in runner.model.state_dict().values())
    assert 'the input data_batch' in run_method.logs_of(tmp_path)


@every_method
def test_features_of_the_student_and_of_each_teacher(name):
    model = build(name, data_preprocessor=dict(type='SelfSupDataPreprocessor', **MEAN_STD))
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8, generator=generator)
    samples = [dict(inputs=images[i], data_samples=DataSample().set_gt_label(i % 2)) for i in range(6)]
    loader = DataLoader(samples, batch_size=4, collate_fn=pseudo_collate)
    with torch.no_grad():
        normalised = (images.float() - 127) / 60
        model.eval()
        expected = {'student': model.backbone.encode(normalised)[0]}
        expected |= {key: teacher.backbone.encode(normalised)[0] for key, teacher in model.teachers.items()}
    for target, tokens in expected.items():
        features = extract_features(model, loader, target=target).features
        extra = model.backbone.num_extra_tokens
        assert set(features) == ({'avg', 'cls'} if extra else {'avg'})
        torch.testing.assert_close(features['avg'], tokens[:, extra:].mean(1), rtol=1e-5, atol=1e-5)
        if extra:
            torch.testing.assert_close(features['cls'], tokens[:, 0], rtol=1e-5, atol=1e-5)
        else:
            with pytest.raises(ValueError, match="`pool` must be 'avg' .*, but got 'cls'"):
                extract_features(model, loader, pool='cls', target=target)
    with pytest.raises(ValueError, match='student'):
        extract_features(model, loader, target='nobody')


@every_method
def test_the_student_and_each_teacher_are_exported(name, run_method, tmp_path):
    runner = run_method.run(tmp_path, method=name, epochs=1)
    checkpoint = tmp_path / 'epoch_1.pth'
    sources = ['student', *runner.model.teachers]
    assert list(read_checkpoint(checkpoint).sources) == sources
    for source in sources:
        result = export_backbone(checkpoint, tmp_path / f'{source}.pth', source, to='mmpretrain')
        assert result.max_difference < 1e-5
        own = (runner.model if source == 'student' else runner.model.teachers[source]).backbone.state_dict()
        exported = read_checkpoint(tmp_path / f'{source}.pth').encoder()
        assert own.keys() == exported.keys()
        assert all(torch.equal(own[key], exported[key]) for key in own)
        for other in ('timm', 'huggingface') if not runner.model.backbone.num_extra_tokens else ():
            with pytest.raises(ExportError, match=f"to='{other}': .* Swin .* mmpretrain"):
                export_backbone(checkpoint, tmp_path / 'other.pth', source, to=other)


@every_method
def test_the_report_charts_what_is_declared(name, run_method, tmp_path):
    runner = run_method.run(tmp_path, method=name, epochs=1)
    page, picture = build_report(tmp_path)
    text = html.unescape(page.read_text(encoding='utf-8'))
    assert picture.stat().st_size > 1000
    logged = {key.removeprefix('train/') for key in runner.message_hub.log_scalars}
    charts = {figure.chart.title for key, figure in runner.model.figures.items() if key in logged}
    assert bool(charts) == bool(runner.model.figures) and not [title for title in charts if title not in text]
    assert set(runner.model.LOSSES) <= logged
    assert 'of `train_dataloader.dataset`' in text and 'cannot be shown whole: it has no `pipeline`' in text


VIEWS = """dict(type='mmpl.TwoViews', own_crop=False, strong=[dict(type='ColorJitter', brightness=0.4)],
                  geometry=[dict(type='RandomFlip', prob=0.5)])"""


SWIN = dict(arch=dict(embed_dims=48, depths=[2, 2], num_heads=[2, 4]), img_size=32, patch_size=4, window_size=4)


def write_config(name: str, path: Path) -> Path:
    """A config of the method on embedded data, of 32 x 32 pixels: what a user writes to put it into a benchmark."""
    model = METHODS[name].tiny()
    kind = model['backbone']['type']
    model['backbone'] = dict(type=kind)
    two = views_of(name) == 2
    path.write_text(f"""
_base_ = {str(ROOT / 'configs/benchmarks/methods/_surfaces.py')!r}
custom_imports = dict(imports=['tests.test_methods.toy'])
model = {model}
model['backbone'].update({'_base_.encoder' if kind == 'mmpl.MaskedViT' else SWIN})
model['data_preprocessor'] = _base_.data_preprocessor
pipeline = [dict(type='LoadImageFromFile'), {VIEWS + ',' if two else ''}
            dict(type='PackInputs', meta_keys=('view_boxes',))]
train_dataloader = dict(batch_size=8, dataset=dict(pipeline=pipeline))
optim_wrapper = dict(paramwise_cfg=dict(_delete_=True, norm_decay_mult=0.0))
custom_hooks = [dict(type='mmpl.DualTeacherHook', health_interval=1)]
""")
    return path


@pytest.mark.slow
@every_method
def test_the_comparison_of_methods_takes_its_config(name, tmp_path):
    vit = METHODS[name].tiny()['backbone']['type'] == 'mmpl.MaskedViT'
    (tmp_path / 'finetune.py').write_text(f"""
_base_ = {str(ROOT / 'configs/benchmarks/methods' / ('finetune.py' if vit else 'finetune_simmim.py'))!r}
train_cfg = dict(max_epochs=1)
param_scheduler = []
""")
    data = dict(label='digits', dataset=dict(data_root=str(tmp_path / 'data'), size='test'))
    config = Config(
        dict(
            images=24, seeds=[0], curve_points=1, curve=dict(max_train_images=40), reference=name, probe=dict(k=3),
            finetune=str(tmp_path / 'finetune.py'),
            data=dict(digits=dict(data, mean=53.5, std=57.2, num_classes=10, scenes=True)),
            methods={name: dict(label=name, config=str(write_config(name, tmp_path / 'method.py')))},
        )
    )  # fmt: skip
    bench = compare_methods.Bench(config, tmp_path / 'runs', tmp_path / 'work')
    (run,) = bench.plan()
    result = bench.execute(run)
    assert result == bench.load(run) and result['iterations'] == 3
    assert all(0 <= result[key] <= 100 for key in compare_methods.METRICS)
    momenta = [key for key in result['health'] if key.startswith('momentum_')]
    assert len(momenta) == len(MODELS.build(METHODS[name].tiny()).teachers)
    table = compare_methods.write_all(bench, tmp_path / 'out')
    assert f'| {name} |' in table


@every_method
def test_the_speed_of_its_parts_is_measured(name, tmp_path):
    write_photos(tmp_path / 'photos', 8, (32, 32))
    args = pretrain_speed.parse_args(['--threads', '1', '--views', '8', '--device', 'cpu'])
    side = pretrain_speed.Side(
        pretrain_speed.load_side(str(write_config(name, tmp_path / 'method.py'))), args, str(tmp_path / 'photos')
    )
    result = side.round(1)
    teachers = set(side.inner.teachers)
    assert {'data', 'backward', 'optimizer', 'ema', *teachers} <= set(result['parts'])
    assert all(result['parts'][part] > 0 for part in teachers)
    flops = side.count_flops()
    assert 0 < flops['forward'] < flops['total']


# ---------------------------------------------------------------------- two processes


def steps(name: str, rank: int, world_size: int, split: bool = False) -> dict:
    """Three steps of SGD on this rank's part of a batch of eight, under DDP or of a model in shards."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    method, fields = VARIANTS.get(name, (name, {}))
    model = build(method, **fields)
    model.copy_to_teachers()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    net = model
    if split:
        net = FullySharded(model)
        wrapper = GuardedOptimWrapper(optimizer)
        net.cut(SimpleNamespace(optim_wrapper=wrapper, hooks=[], logger=MMLogger.get_current_instance()))
    elif world_size > 1:
        net = DistributedDataParallel(model, broadcast_buffers=False)
    rows = slice(rank * 8 // world_size, (rank + 1) * 8 // world_size)
    record: dict = dict(losses=[])
    for step in range(3):
        model.set_progress(step / 3)
        losses = net([view[rows] for view in images_of(method, seed=step)], mode='loss')
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        model.after_step((step + 1) / 3, epoch=step)
        record['losses'].append({key: loss.detach() for key, loss in losses.items()})
    return record | dict(state={key: whole_tensor(value).clone() for key, value in model.state_dict().items()})


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)  # more of them hang in a fork
    dist.init_process_group('gloo', init_method=f'file://{folder}/group', rank=rank, world_size=2)
    found = {(name, split): steps(name, rank, 2, split) for name in (*METHODS, *VARIANTS) for split in (False, True)}
    torch.save(found, f'{folder}/{rank}.pth')
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def two_ranks(tmp_path_factory) -> list[dict]:
    """What the two processes recorded; started once for all methods."""
    folder = tmp_path_factory.mktemp('ranks')
    mp.start_processes(worker, args=(str(folder),), nprocs=2, start_method=START)
    return [torch.load(folder / f'{rank}.pth', weights_only=True) for rank in (0, 1)]


@pytest.mark.dist
@pytest.mark.parametrize('split', [False, True], ids=['ddp', 'split'])
@pytest.mark.parametrize('name', [*METHODS, *VARIANTS])
def test_two_processes_are_one_with_the_joint_batch(name, split, two_ranks):
    joint, ranks = steps(name, 0, 1), [rank[name, split] for rank in two_ranks]
    for a, b, c in zip(*(record['losses'] for record in [*ranks, joint]), strict=True):
        for key, loss in c.items():
            torch.testing.assert_close((a[key] + b[key]) / 2, loss, rtol=1e-5, atol=1e-5)
    for key, value in joint['state'].items():
        for rank in ranks:
            torch.testing.assert_close(rank['state'][key], value, rtol=1e-5, atol=1e-5, msg=key)
