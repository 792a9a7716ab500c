"""The dry run's numbers: FLOP against a closed form, iterations against mmengine's loader, disk against real files."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

import dry_run
from mmpl.apis.train import train_config
from mmpl.compat import load_checkpoint
from tests.faults.runs import fault_cfg, run

ROOT = Path(__file__).resolve().parents[2]


def config_of(name: str, *options: str) -> Config:
    words = ['--cfg-options', *options] if options else []
    return train_config(dry_run.parse_args([str(ROOT / f'configs/{name}.py'), *words]).train)


def block(tokens: int, width: int) -> int:
    """FLOP of the forward pass of a block whose MLP is four times as wide: q, k, v, output, MLP, attention."""
    return 2 * tokens * (4 + 8) * width**2 + 4 * tokens**2 * width


def vit_b_flops() -> int:
    """FLOP that configs/pl_mae_vitb.py spends on an image, by hand."""
    patches, visible, pixels, width, depth = 196, 49, 16 * 16 * 3, 768, 12
    embed = 2 * patches * pixels * width
    student = 2 * embed + 3 * depth * block(1 + visible, width)  # no gradient by the images
    decoder_width, decoder_depth = 512, 8
    decoder = 2 * (1 + visible) * width * decoder_width + decoder_depth * block(1 + patches, decoder_width)
    decoder += 2 * (1 + patches) * decoder_width * width
    teacher = embed + depth * block(1 + patches, width)
    labelled, prototypes, hidden, bottleneck = 1 + visible, 8192, 2048, 256
    projector = 2 * labelled * (width * hidden + hidden**2 + hidden * bottleneck)
    logits = 2 * labelled * bottleneck * prototypes
    labels = (3 + 1) * (projector + logits)  # the student with its backward pass, the teacher without
    labels += 2 * labelled * prototypes  # the logits' products with the labels
    return student + 3 * decoder + 2 * teacher + labels


@pytest.mark.slow
@pytest.mark.fake_cuda
def test_the_run_that_the_docs_show() -> None:
    found = dry_run.dry_run(config_of('pl_mae_vitb'), 8, 1_281_167)
    # 1,281,167 images in 8 processes make 160,146 each, 312 batches of 512 and a rest that is dropped
    assert (found['iterations_of_epoch'], found['iterations'], found['steps']) == (312, 124_800, 124_800)
    assert found['flops_of_step'] == pytest.approx(vit_b_flops() * 4096, rel=1e-9)
    assert found['flops'] == pytest.approx(vit_b_flops() * 4096 * 124_800, rel=1e-9)
    assert (found['base_rate'], found['epochs'], found['warmup']) == (2.4e-3, 400, 40)
    trained, *teachers = found['parameters'].values()
    assert found['checkpoint_bytes'] == pytest.approx(4 * (3 * trained + sum(teachers)), rel=1e-3)  # AdamW's two
    assert dry_run.hours(found, 312, 0.5) == pytest.approx(found['flops'] / 8 / 156e12 / 3600)
    assert dry_run.text_of(found, 'a100', 0.4) in (ROOT / 'docs/recipes.md').read_text()


@pytest.mark.parametrize('images, batch, gpus, drop_last', [(103, 4, 1, True), (103, 4, 3, True), (103, 4, 3, False)])
@pytest.mark.parametrize('round_up', [True, False])
def test_iterations_are_those_of_mmengines_loader(images, batch, gpus, drop_last, round_up, monkeypatch) -> None:
    loader = dict(batch_size=batch, num_workers=0, drop_last=drop_last, dataset=list(range(images)))
    loader['sampler'] = dict(type='DefaultSampler', shuffle=True, round_up=round_up)
    monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda: (0, 1))
    counted = dry_run.count_iterations(loader, range(images), gpus)
    monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda: (0, gpus))
    assert counted == len(Runner.build_dataloader(loader, seed=0))


def test_a_batch_larger_than_the_share_of_a_process_is_refused() -> None:
    loader = dict(batch_size=8, drop_last=True, sampler=dict(type='DefaultSampler'))
    with pytest.raises(dry_run.DryRunError, match='leaves no iteration in an epoch: 3 processes share 20 images'):
        dry_run.count_iterations(loader, range(20), 3)


@pytest.mark.slow
@pytest.mark.fake_cuda
def test_a_small_run_is_what_was_worked_out(tmp_path) -> None:
    checkpoint = dict(interval=1, max_keep_ckpts=2, iter_interval=4)
    fields = dict(
        checkpoint=checkpoint,
        optim_wrapper=dict(accumulative_counts=2),
        auto_scale_lr=dict(enable=True, base_batch_size=32),
    )
    found = dry_run.dry_run(fault_cfg(tmp_path / 'dry', **fields))
    assert (found['images'], found['iterations_of_epoch'], found['iterations']) == (24, 6, 18)
    runner = run(tmp_path / 'run', **fields)
    assert runner.iter == found['iterations']
    assert int(runner.optim_wrapper.optimizer.state_dict()['state'][0]['step']) == found['steps'] == 9
    assert found['rate'] == pytest.approx(1e-3 * 4 * 2 / 32)
    assert runner.optim_wrapper.param_groups[0]['initial_lr'] == pytest.approx(found['rate'])
    files = sorted((tmp_path / 'run').glob('*.pth'))
    assert len(files) == found['files'] - 1 == 4  # one more while it is written
    saved = load_checkpoint(files[0])
    moments = [state[name] for state in saved['optimizer']['state'].values() for name in ('exp_avg', 'exp_avg_sq')]
    steps = len(saved['optimizer']['state'])
    assert found['checkpoint_bytes'] == 4 * steps + sum(t.nbytes for t in [*saved['state_dict'].values(), *moments])
    assert found['checkpoint_bytes'] < files[0].stat().st_size < found['checkpoint_bytes'] + 1024 * (steps * 3 + 100)
    trained = sum(t.numel() for t in moments) // 2
    assert found['parameters']['trained'] == trained


def test_checkpoints_that_are_kept_at_once() -> None:
    def files(**hook) -> int:
        return dry_run.count_files(Config(dict(default_hooks=dict(checkpoint=hook))), 60, 6)

    assert files(interval=1, max_keep_ckpts=3) == 3 + 1
    assert files(interval=4, max_keep_ckpts=-1) == 3 + 1  # epochs 4, 8 and the last
    assert files(interval=20, by_epoch=False) == 3 + 1
    assert files(interval=1, max_keep_ckpts=3, iter_interval=5) == 3 + 2 + 1
    assert files(interval=-1) == 0 and dry_run.count_files(Config({}), 60, 6) == 0


def test_parts_of_a_peak() -> None:
    assert dry_run.peak_of('H100') == 989 and dry_run.peak_of('433.5') == 433.5


@pytest.mark.parametrize(
    'arguments, message',
    [
        (
            '--gpu v100',
            "`--gpu` must be one of a100, h100, h200, l40s, rtx4090, rtx3090, or a peak in TFLOP/s, but got 'v100'",
        ),
        ('--gpu -3', r'`--gpu` must be a number in \(0, inf\), but got -3.0'),
        ('--mfu 0', r'`--mfu` must be a number in \(0, 1\], but got 0.0'),
        ('--mfu 1.5', r'`--mfu` must be a number in \(0, 1\], but got 1.5'),
        ('', "the images of the config cannot be counted, so give `--images`: .*'data/imagenet/train'"),
    ],
)
def test_wrong_input_ends_in_a_line(arguments, message, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f'^error: {message}$'):
        dry_run.main([str(ROOT / 'configs/pl_mae_vitb.py'), *arguments.split()])
