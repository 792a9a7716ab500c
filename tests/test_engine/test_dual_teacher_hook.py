"""When the teachers move, and what the log says."""

import json
import math

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmpl.checkpoints.fit import CheckpointMismatchError
from mmpl.engine.hooks import DualTeacherHook
from mmpl.engine.hooks.dual_teacher_hook import check_groups
from mmpl.models.heads import LabelStats
from tests.test_engine.runs import run_cfg, train
from tests.test_models.helpers import build_plmae

pytestmark = pytest.mark.smoke


class Recorder(Hook):
    """Recomputes the teachers in float64 from the student's weights after each optimizer step."""

    priority = 'VERY_LOW'

    def __init__(self, accumulation: int, **starts_ends: tuple[float, float]) -> None:
        self.accumulation, self.starts_ends = accumulation, starts_ends
        self.updates = 0

    @staticmethod
    def student(model) -> dict:
        keys = ('backbone.', 'label_heads.', 'align_heads.')
        return {n: p.detach().double().clone() for n, p in model.named_parameters() if n.startswith(keys)}

    def before_train(self, runner) -> None:
        self.teachers = {name: self.student(runner.model) for name in self.starts_ends}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if (runner.iter + 1) % self.accumulation and runner.iter + 1 != runner.max_iters:
            return
        self.updates += 1
        progress = (runner.iter + 1) / runner.max_iters
        for name, (start, end) in self.starts_ends.items():
            momentum = end - (end - start) * (math.cos(math.pi * progress) + 1) / 2
            for key, value in self.student(runner.model).items():
                self.teachers[name][key].mul_(momentum).add_(value, alpha=1 - momentum)


@pytest.mark.parametrize(('accumulation', 'epochs'), [(4, 100), (3, 5)])
def test_both_teachers_follow_their_schedules_after_optimizer_steps(tmp_path, accumulation, epochs):
    momenta = dict(momentum_label=dict(start=0.9, end=1.0), momentum_recon=dict(start=0.95, end=0.999))
    cfg = run_cfg(
        tmp_path,
        model=momenta,
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=epochs),
        optim_wrapper=dict(
            type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3), accumulative_counts=accumulation
        ),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1000)),
    )
    runner = Runner.from_cfg(cfg)
    recorder = Recorder(accumulation, label=(0.9, 1.0), recon=(0.95, 0.999))
    runner.register_hook(recorder)
    runner.train()
    assert recorder.updates == -(-4 * epochs // accumulation)
    own = dict(runner.model.named_parameters())
    moved = 0.0
    for key, value in recorder.teachers['label'].items():
        name = f'label_teacher.{key.replace("label_heads.", "heads.")}'
        torch.testing.assert_close(own[name].double(), value, rtol=0, atol=1e-6, msg=name)
        moved = max(moved, (own[name].double() - own[key].double()).abs().max().item())
    for key, value in recorder.teachers['recon'].items():
        if key.startswith('backbone.'):
            torch.testing.assert_close(own[f'recon_teacher.{key}'].double(), value, rtol=0, atol=1e-6, msg=key)
    assert moved > 1e-4, 'a teacher that equals its student would prove nothing'


def test_a_horizon_follows_the_length_of_the_run_and_the_start_is_watched(tmp_path):
    """Steps of two batches; in the log is the product of the momenta that the teachers moved with."""
    cfg = run_cfg(
        tmp_path,
        model=dict(momentum_label=dict(horizon=0.1, curve='constant'), momentum_recon=dict(start=0.99)),
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=20),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3), accumulative_counts=2),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1000)),
    )
    runner = Runner.from_cfg(cfg)
    warned = []
    runner.logger.warning = lambda text, *args, **kwargs: warned.append(text)
    runner.train()
    steps = runner.max_iters // 2
    hub = runner.message_hub
    label = 1 - 1 / (0.1 * steps)
    assert set(hub.get_scalar('train/momentum_label').data[0].round(12)) == {round(label, 12)}
    assert hub.get_scalar('train/init_share_label').current() == pytest.approx(label**steps, rel=1e-6)
    # 40 steps, which the figure sums as an integral
    left = math.prod(0.99 + 0.01 * (1 - math.cos(math.pi * step / steps)) / 2 for step in range(1, steps + 1))
    assert hub.get_scalar('train/init_share_recon').current() == pytest.approx(
        left, rel=1e-2
    )  # 40 steps, summed as an integral
    (warning,) = [text for text in warned if 'those of the start' in text]
    assert warning.startswith('recon_teacher: ')


def test_msas_teacher_follows_its_schedule_after_optimizer_steps(tmp_path):
    cfg = run_cfg(
        tmp_path,
        method='msa',
        model=dict(momentum_align=dict(start=0.8, end=0.9)),
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=5),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3), accumulative_counts=3),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1000)),
    )
    runner = Runner.from_cfg(cfg)
    recorder = Recorder(3, align=(0.8, 0.9))
    runner.register_hook(recorder)
    runner.train()
    assert recorder.updates == 7
    own, moved = dict(runner.model.named_parameters()), 0.0
    for key, value in recorder.teachers['align'].items():
        name = f'align_teacher.{key.replace("align_heads.", "heads.")}'
        torch.testing.assert_close(own[name].double(), value, rtol=0, atol=1e-6, msg=name)
        moved = max(moved, (own[name].double() - own[key].double()).abs().max().item())
    assert moved > 1e-4, 'a teacher that equals its student would prove nothing'


def test_a_skipped_step_moves_no_teacher(tmp_path):
    """As a loss scaler does on overflow: the wrapper goes on, the optimizer takes no step."""

    class SkipSecond(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            wrapper = runner.optim_wrapper
            if runner.iter == 1:
                wrapper.step = lambda **kwargs: None
            elif 'step' in vars(wrapper):
                del wrapper.step

    class Watch(Hook):
        priority = 'LOWEST'
        seen: list

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            self.seen.append(runner.model.label_teacher.backbone.layers[0].ln1.weight.clone())

    runner = Runner.from_cfg(run_cfg(tmp_path, model=dict(momentum_label=dict(start=0.5, end=0.5))))
    watch = Watch()
    watch.seen = []
    runner.register_hook(SkipSecond())
    runner.register_hook(watch)
    runner.train()
    assert torch.equal(watch.seen[0], watch.seen[1])
    assert not torch.equal(watch.seen[1], watch.seen[2])


def test_log_holds_losses_momenta_and_health(tmp_path):
    runner = train(tmp_path)
    (log,) = tmp_path.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(lines) == 8
    for line in lines:
        parts = sum(line[f'loss_{name}'] for name in ('recon', 'label_cls', 'label_data'))
        assert line['loss'] == pytest.approx(parts, rel=1e-5)
        for name in ('cls', 'data'):
            for figure in ('entropy_mean', 'entropy_marginal', 'usage', 'agreement'):
                assert 0 <= line[f'{name}_{figure}'] <= 1 + 1e-6
        assert line['target_norm'] > 0
    momenta = runner.message_hub.get_scalar('train/momentum_recon').data[0]
    expected = [1 - 0.0005 * (math.cos(math.pi * (i + 1) / 8) + 1) / 2 for i in range(8)]
    np.testing.assert_allclose(momenta, expected, atol=1e-9)
    temps = runner.message_hub.get_scalar('train/teacher_temp').data[0]
    assert temps[0] == pytest.approx(0.04)
    assert temps[-1] == pytest.approx(0.07)


def test_log_of_msa_holds_losses_momentum_and_health(tmp_path):
    runner = train(tmp_path, method='msa')
    (log,) = tmp_path.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(lines) == 8
    for line in lines:
        parts = sum(line[f'loss_{name}'] for name in ('recon', 'align_cls', 'align_tokens'))
        assert line['loss'] == pytest.approx(parts, rel=1e-5)
        assert {key for key in line if key.startswith('align_')} == {
            'align_cls_cosine', 'align_cls_spread', 'align_cls_agreement', 'align_tokens_cosine', 'align_tokens_spread'
        }  # fmt: skip
        assert -1 <= line['align_tokens_cosine'] <= 1
        assert 0 <= line['align_cls_spread'] <= 1 and 0 <= line['align_cls_agreement'] <= 1
        assert not any(key in line for key in ('teacher_temp', 'target_norm', 'momentum_label'))
    assert lines[0]['align_tokens_cosine'] == pytest.approx(1 - lines[0]['loss_align_tokens'], abs=1e-5)
    momenta = runner.message_hub.get_scalar('train/momentum_align').data[0]
    expected = [1 - 0.01 * (math.cos(math.pi * (i + 1) / 8) + 1) / 2 for i in range(8)]
    np.testing.assert_allclose(momenta, expected, atol=1e-9)


def test_health_figures():
    probs = np.array([[0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1], [0.7, 0.1, 0.1, 0.1]])
    stats = LabelStats(
        count=torch.tensor(3.0),
        entropy=torch.tensor(-(probs * np.log(probs)).sum()),
        agreement=torch.tensor(2.0),
        probs=torch.tensor(probs.sum(0)),
        hits=torch.tensor([2.0, 1.0, 0.0, 0.0]),
    )
    health = stats.figures()
    mean = probs.mean(0)
    assert health['entropy_mean'] == pytest.approx(-(probs * np.log(probs)).sum() / 3 / math.log(4))
    assert health['entropy_marginal'] == pytest.approx(-(mean * np.log(mean)).sum() / math.log(4))
    assert health['usage'] == pytest.approx(2 / 3)
    assert health['agreement'] == pytest.approx(2 / 3)


def test_collapse_is_warned_of_once(tmp_path, caplog):
    """Prototypes that are all alike give labels that say nothing."""
    cfg = run_cfg(tmp_path, hook=dict(patience=3), log_level='INFO')
    runner = Runner.from_cfg(cfg)
    warned = []
    runner.logger.warning = lambda text, *args, **kwargs: warned.append(text)

    class Collapse(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            for head in runner.model.label_teacher.heads.values():
                head.prototypes.data[:] = head.prototypes.data[0]

    runner.register_hook(Collapse())
    runner.train()
    collapses = [text for text in warned if 'has collapsed or says nothing' in text]
    assert len(collapses) == 2, warned  # one for each labelling head
    assert 'at iteration 3' in collapses[0]
    assert 'entropy_mean 1.0000' in collapses[0]


@pytest.mark.parametrize('temperature, warned_of', [(1.25, True), (0.1, False)])
def test_labels_that_are_nearly_uniform_are_warned_of(temperature, warned_of, tmp_path):
    temperatures = dict(teacher_temp=temperature, warmup_teacher_temp=temperature)
    cfg = run_cfg(tmp_path, hook=dict(patience=3), model=dict(label_head=temperatures))
    runner = Runner.from_cfg(cfg)
    warned = []
    runner.logger.warning = lambda text, *args, **kwargs: warned.append(text)
    runner.train()
    entropies, _ = runner.message_hub.get_scalar('train/cls_entropy_mean').data
    assert all(0.98 < entropy < 0.995 for entropy in entropies) if warned_of else max(entropies) < 0.98
    assert any("'cls' has collapsed or says nothing (cls_entropy_mean 0.9" in text for text in warned) == warned_of


def test_collapse_of_an_alignment_is_warned_of(tmp_path):
    """A projector that only adds a bias gives all tokens one embedding."""
    runner = Runner.from_cfg(run_cfg(tmp_path, method='msa', hook=dict(patience=3), log_level='INFO'))
    warned = []
    runner.logger.warning = lambda text, *args, **kwargs: warned.append(text)

    class Collapse(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            last = runner.model.align_teacher.heads['tokens'].projector[-1]
            last.weight.data.zero_()
            last.bias.data.fill_(1)

    runner.register_hook(Collapse())
    runner.train()
    (collapse,) = [text for text in warned if 'has collapsed or says nothing' in text]
    assert collapse.startswith("What is learnt of 'align_tokens'")
    assert 'spread' in collapse and 'at iteration 3' in collapse and '`momentum_align`' in collapse


def test_a_run_without_teachers_needs_no_hook_but_bears_one(tmp_path):
    pixel = dict(head=dict(target='pixel'), loss_weights=dict(label_cls=0, label_data=0))
    train(tmp_path / 'with', model=pixel)
    train(tmp_path / 'without', model=pixel, custom_hooks=[])


def test_refuses_none_and_two(tmp_path):
    with pytest.raises(RuntimeError, match='nobody updates the teachers'):
        train(tmp_path, custom_hooks=[])
    with pytest.raises(RuntimeError, match='updated by DualTeacherHook already.*keep one DualTeacherHook'):
        train(tmp_path, custom_hooks=[dict(type='mmpl.DualTeacherHook')] * 2)


def test_refuses_a_model_without_teachers(tmp_path):
    class Runnerlike:
        model = torch.nn.Linear(1, 1)

    with pytest.raises(TypeError, match='needs a model with teachers, such as mmpl.PLMAE or mmpl.MSA, but got Linear'):
        DualTeacherHook().before_train(Runnerlike())


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        (dict(health_interval=0), '`health_interval`'),
        (dict(patience=0), '`patience`'),
        (dict(on_collapse='sleep'), r"`on_collapse` must be one of \['stop', 'warn'\]"),
        (dict(healthy=dict(cls_usage=(0, float('nan')))), '`healthy.cls_usage` must be a number'),
        (dict(healthy=dict(cls_usage=0.1)), '`healthy.cls_usage` must be a lowest and a highest value, but got 0.1'),
        (
            dict(momentum_recon=dict(start=0.9)),
            r'`momentum_recon` is a field of the model.*set `model.momentum_recon` to',
        ),
        (dict(min_usage=0.1), '`min_usage` is not a field of DualTeacherHook'),
    ],
)
def test_refuses(fields, message):
    with pytest.raises((ValueError, TypeError), match=message):
        DualTeacherHook(**fields)


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        (dict(momentum_label=dict(start=1.0, end=0.9)), '`momentum_label.start` must be at most'),
        (dict(momentum_recon=dict(start=1.5)), r'`momentum_recon.start` must be a number in \[0, 1\], but got 1.5'),
    ],
)
def test_refuses_momenta_of_the_model(fields, message):
    with pytest.raises(ValueError, match=message):
        build_plmae(**fields)


def test_bounds_can_be_set_for_each_logged_figure(tmp_path):
    runner = Runner.from_cfg(run_cfg(tmp_path, hook=dict(patience=2, healthy=dict(target_norm=(None, 0.0)))))
    warned = []
    runner.logger.warning = lambda text, *args, **kwargs: warned.append(text)
    runner.train()
    assert [text for text in warned if "'target'" in text and '> 0.0' in text and '2 looks in a row' in text]
    with pytest.raises(ValueError, match="`healthy` must be one of .*'cls_usage'.*, but got 'usage'"):
        train(tmp_path / 'other', hook=dict(healthy=dict(usage=(0.1, None))))


@pytest.mark.parametrize('method', ['plmae', 'msa'])
def test_resumed_teachers_and_masks_are_those_of_the_checkpoint(tmp_path, method):
    first = train(tmp_path, method=method)
    saved = {k: v.clone() for k, v in first.model.state_dict().items()}
    assert any('teacher.' in key for key in saved)
    cfg = run_cfg(tmp_path, method=method, resume=True, train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=3))
    resumed = Runner.from_cfg(cfg)

    class Compare(Hook):
        priority = 'LOWEST'

        def before_train_epoch(self, runner):
            for key, value in runner.model.state_dict().items():
                assert torch.equal(value, saved[key]), key
            assert runner.model.masking._step == 8
            assert runner.iter == 8

    resumed.register_hook(Compare())
    resumed.train()
    assert resumed.iter == 12


def test_teachers_start_as_the_student_of_a_checkpoint_without_teachers(tmp_path):
    pixel = dict(head=dict(target='pixel'), loss_weights=dict(label_cls=0, label_data=0))
    mae = train(tmp_path / 'mae', model=pixel)
    runner = Runner.from_cfg(run_cfg(tmp_path / 'pl', load_from=str(tmp_path / 'mae' / 'epoch_2.pth')))

    class Compare(Hook):
        priority = 'LOWEST'

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter == 0:
                for name, value in mae.model.backbone.state_dict().items():
                    assert torch.equal(runner.model.label_teacher.backbone.state_dict()[name], value)
                    assert torch.equal(runner.model.recon_teacher.backbone.state_dict()[name], value)

    runner.register_hook(Compare())
    runner.train()


@pytest.mark.parametrize(
    ('before', 'model', 'method', 'copied', 'loaded'),
    [
        ('plmae', {}, 'msa', ['align_teacher'], []),
        ('msa', {}, 'plmae', ['label_teacher', 'recon_teacher'], []),
        ('plmae', dict(single_teacher=True), 'plmae', ['recon_teacher'], ['label_teacher']),
    ],
)
def test_teachers_that_a_checkpoint_lacks_start_as_its_student(tmp_path, before, model, method, copied, loaded):
    fast = dict(momentum_label=dict(start=0.5, end=0.5)) if before == 'plmae' else {}
    first = train(tmp_path / 'a', method=before, model=model | fast)
    runner = Runner.from_cfg(run_cfg(tmp_path / 'b', method=method, load_from=str(tmp_path / 'a' / 'epoch_2.pth')))
    seen = []

    class Compare(Hook):
        priority = 'LOWEST'

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter:
                return
            for name in copied + loaded:
                teacher = runner.model.teachers[name].backbone.state_dict()
                source = first.model.backbone if name in copied else first.model.teachers[name].backbone
                assert all(torch.equal(teacher[key], value) for key, value in source.state_dict().items()), name
                seen.append(name)

    runner.register_hook(Compare())
    runner.train()
    assert seen == copied + loaded


def test_refuses_a_checkpoint_that_does_not_fit(tmp_path):
    train(tmp_path / 'a')
    file = str(tmp_path / 'a' / 'epoch_2.pth')
    narrow = dict(backbone=dict(arch=dict(embed_dims=32, num_layers=2, num_heads=4, feedforward_channels=64)))
    with pytest.raises(CheckpointMismatchError, match=r'layers\.2\.'):
        train(tmp_path / 'b', model=narrow, load_from=file)
    other_heads = dict(label_head=dict(num_prototypes=8))
    train(tmp_path / 'c', model=other_heads, load_from=file)  # the backbone fits, and that is what load_from is for
    with pytest.raises(CheckpointMismatchError, match='prototypes'):
        train(tmp_path / 'd', model=other_heads, load_from=file, resume=True)


def test_bf16_run(tmp_path):
    runner = train(
        tmp_path, optim_wrapper=dict(type='mmpl.AutocastOptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
    )
    assert all(torch.isfinite(p).all() and p.dtype == torch.float32 for p in runner.model.parameters())
    with pytest.raises(ValueError, match='`optim_wrapper.dtype` must be one of'):
        train(
            tmp_path,
            optim_wrapper=dict(type='mmpl.AutocastOptimWrapper', dtype='fp8', optimizer=dict(type='AdamW', lr=1e-3)),
        )


@pytest.mark.parametrize(
    ('images', 'batch', 'fields', 'count'),
    [
        (10, 4, dict(), 2),
        (10, 4, dict(drop_last=True), None),
        (12, 4, dict(), None),
        (20, 8, dict(), None),
        (12, 6, dict(drop_last=True), 6),
        (10, 4, dict(infinite=True), None),
    ],
)
def test_batches_of_no_whole_groups_are_refused_before_the_first_step(images, batch, fields, count):
    """Not at the end of the first epoch, hours later."""
    sampler = (InfiniteSampler if fields.pop('infinite', False) else DefaultSampler)(range(images))
    loader = DataLoader(range(images), batch, sampler=sampler, **fields)
    check_groups(loader, 1)
    if count is None:
        check_groups(loader, 4)
    else:
        with pytest.raises(ValueError, match=f'in groups of 4, but a batch of an epoch has {count}: .*drop_last=True'):
            check_groups(loader, 4)


def test_fewer_images_than_a_batch(tmp_path):
    """An endless sampler fills batches; the loader's length is 0 then."""
    loader = run_cfg(tmp_path).train_dataloader
    loader.update(batch_size=32, drop_last=True, sampler=dict(type='InfiniteSampler', shuffle=True))
    loop = dict(type='IterBasedTrainLoop', max_iters=3)
    runner = train(tmp_path, train_dataloader=loader, train_cfg=loop, default_hooks=dict(checkpoint=None))
    assert len(runner.train_dataloader) == 0 and runner.iter == 3
