"""The report: numbers against independent references, a page that is safe and complete in itself."""

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from mmpl.visualization import (
    Neighbour,
    Picture,
    ReportData,
    ReportOptions,
    ResultRow,
    label_colours,
    nearest_neighbours,
    overlay_labels,
    pca_rgb,
    principal_components,
    read_results,
    read_scalars,
    render_report,
)
from mmpl.visualization.charts import charts_of
from mmpl.visualization.page import render_html
from mmpl.visualization.pictures import rank_labels
from mmpl.visualization.report import (
    build_report,
    collect_report,
    find_checkpoint,
    find_config,
    predict_label_maps,
    spread_over_classes,
    to_picture,
)


def write_log(work_dir: Path, stamp: str, entries: list[dict], name: str = 'scalars.json') -> None:
    """Write the JSON log of one start of a run, as mmengine does."""
    folder = work_dir / stamp / 'vis_data'
    folder.mkdir(parents=True)
    (folder / name).write_text(''.join(json.dumps(entry) + '\n' for entry in entries))


def train_line(step: int, loss: float, **more: float) -> dict:
    """A line of the log at a training step; 10 steps are an epoch."""
    return dict(loss=loss, epoch=(step - 1) // 10 + 1, iter=step, step=step, **more)


# ------------------------------------------------------------------ numbers


def test_components_equal_sklearn():
    """Up to sign the projections are scikit-learn's; the sign follows the largest loading."""
    from sklearn.decomposition import PCA

    features = np.random.default_rng(0).normal(size=(60, 7)) * np.arange(1, 8) + 5
    reference = PCA(n_components=3, svd_solver='full').fit(features)
    expected = reference.transform(features)
    loadings = reference.components_
    signs = np.sign(loadings[np.arange(3), np.abs(loadings).argmax(1)])
    ours = principal_components(torch.from_numpy(features)).numpy()
    np.testing.assert_allclose(ours, expected * signs, atol=1e-9)
    # mirrored features have the same components with the largest loading positive again
    np.testing.assert_allclose(principal_components(torch.from_numpy(-features)).numpy(), -ours, atol=1e-9)


def test_pca_rgb_is_fit_over_the_batch():
    """Colours lie in [0, 1], reach both ends, and equal patches of different images are coloured alike."""
    features = torch.randn(4, 9, 6, generator=torch.Generator().manual_seed(0))
    features[3, 2] = features[0, 5]
    colours = pca_rgb(features, quantile=0.0)
    assert colours.shape == (4, 9, 3)
    assert torch.equal(colours[3, 2], colours[0, 5])
    torch.testing.assert_close(colours.flatten(0, 1).amin(0), torch.zeros(3))
    torch.testing.assert_close(colours.flatten(0, 1).amax(0), torch.ones(3))
    assert torch.isfinite(pca_rgb(torch.ones(2, 4, 5))).all()  # all patches alike
    with pytest.raises(ValueError, match='quantile=0.5'):
        pca_rgb(features, quantile=0.5)
    with pytest.raises(ValueError, match='finite'):
        pca_rgb(torch.full((2, 4, 5), float('nan')))


def test_neighbours_equal_brute_force():
    """Cosine, not dot product: each query is compared with each bank row by itself."""
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(5, 8, generator=generator)
    bank = torch.randn(40, 8, generator=generator) * torch.rand(40, 1, generator=generator) * 10
    values, indices = nearest_neighbours(queries, bank, 6)
    for row, query in enumerate(queries.double().tolist()):
        cosines = []
        for other in bank.double().tolist():
            dot = sum(a * b for a, b in zip(query, other, strict=True))
            cosines.append(dot / (sum(a * a for a in query) * sum(b * b for b in other)) ** 0.5)
        order = sorted(range(40), key=lambda index: -cosines[index])[:6]
        assert indices[row].tolist() == order
        assert values[row].tolist() == pytest.approx([cosines[index] for index in order], abs=1e-6)
    with pytest.raises(ValueError, match='k=41'):
        nearest_neighbours(queries, bank, 41)


@pytest.mark.parametrize('k', [1, 7, 128, 8192, 16384])
def test_label_colours_are_distinct(k):
    """No colour twice, and the first ones are far apart."""
    colours = label_colours(k)
    assert colours.shape == (k, 3)
    assert len(np.unique(colours, axis=0)) == k
    first = colours[:8].astype(float)
    distances = np.linalg.norm(first[:, None] - first[None], axis=2) + 1e3 * np.eye(len(first))
    assert distances.min() > 50
    assert np.array_equal(colours, label_colours(16384)[:k])


def test_rank_labels_and_overlay():
    """Labels are numbered by frequency; an opaque overlay shows the colours where the labels are."""
    maps = np.array([[[9, 9], [9, 4]], [[4, 7], [9, 4]]])
    ranked, used = rank_labels(maps)
    assert used.tolist() == [9, 4, 7]
    assert np.array_equal(used[ranked], maps)
    colours = label_colours(3)
    image = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    painted = overlay_labels(image, ranked[0], colours, alpha=1.0)
    assert np.array_equal(painted, colours[ranked[0]].repeat(3, 0).repeat(3, 1))
    grey = overlay_labels(image, ranked[0], colours, alpha=0.0)
    assert np.array_equal(grey[..., 0], grey[..., 1])


def test_mean_and_deviation():
    """The sample's standard deviation (n - 1), as numpy gives it."""
    values = (70.1, 72.4, 69.0)
    mean, deviation = ResultRow('a', {'knn': values}).mean_sd('knn')
    assert mean == pytest.approx(np.mean(values))
    assert deviation == pytest.approx(np.std(values, ddof=1))
    assert ResultRow('a', {'knn': (50.0,)}).cell('knn') == '50.0'
    assert ResultRow('a', {'knn': ()}).cell('knn') == '–'


# ------------------------------------------------------------------ logs


def test_resumed_logs(tmp_path):
    """Steps that were done again count once, with the later value; epochs follow from the lines."""
    write_log(tmp_path, '20260101_000000', [train_line(s, s / 10) for s in (5, 10, 15, 20, 25)])
    lines = [train_line(s, s / 10 + 100) for s in (23, 28)]
    lines.insert(1, {'probe/knn_top1': 60.0, 'epoch': 2, 'iter': 25, 'step': 25})
    write_log(tmp_path, '20260102_000000', lines, name='20260102_000000.json')
    scalars = read_scalars(tmp_path)
    assert scalars.series['loss'] == [(5, 0.5), (10, 1.0), (15, 1.5), (20, 2.0), (23, 102.3), (28, 102.8)]
    assert scalars.series['probe/knn_top1'] == [(25, 60.0)]
    assert scalars.iters_per_epoch == 10
    assert scalars.curve('loss')[0][:2] == [0.5, 1.0]
    assert scalars.max_epoch == 3


def test_started_anew_in_the_same_directory(tmp_path):
    """A run that starts again from step 0 replaces all of the first, also series that it does not have."""
    write_log(tmp_path, '20260101_000000', [train_line(s, 1.0, loss_recon=1.0) for s in (5, 10)])
    write_log(tmp_path, '20260102_000000', [train_line(5, 2.0)])
    assert read_scalars(tmp_path).series == {'loss': [(5, 2.0)]}


def test_odd_logs(tmp_path):
    """No log: no series. A half-written last line is left out; a broken one in between is an error."""
    assert read_scalars(tmp_path).series == {}
    folder = tmp_path / '20260101_000000' / 'vis_data'
    folder.mkdir(parents=True)
    line = json.dumps(train_line(5, 1.0))
    (folder / 'scalars.json').write_text(line + '\n{"loss": 0.')
    assert read_scalars(tmp_path).series == {'loss': [(5, 1.0)]}
    (folder / 'scalars.json').write_text('{"loss": 0.\n' + line + '\n')
    with pytest.raises(ValueError, match='line 1 of scalars.json'):
        read_scalars(tmp_path)


def test_charts_follow_the_log(tmp_path):
    """A run of MAE has a loss and probes only, and gets these two charts."""
    write_log(tmp_path, 's', [train_line(5, 1.0), {'probe/knn_top1': 50.0, 'epoch': 1, 'iter': 10, 'step': 10}])
    charts = charts_of(read_scalars(tmp_path))
    assert [[line.key for line in chart.lines] for chart in charts] == [['loss'], ['probe/knn_top1']]


def test_read_results(tmp_path):
    """The schema is checked, and a fault is named."""
    path = tmp_path / 'results.json'
    path.write_text(json.dumps({'rows': [{'name': 'PL-MAE', 'knn': [1, 2.5], 'linear': []}]}))
    assert read_results(path) == [ResultRow('PL-MAE', {'knn': (1.0, 2.5), 'linear': ()})]
    for content, message in (
        ({'rows': [{'name': 'a', 'knn': 3}]}, r"rows\[0\]\['knn'\]"),
        ({'rows': [{'knn': []}]}, 'rows.0. must be an object'),
        ([], '"rows" must be a list'),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=message):
            read_results(path)


# ------------------------------------------------------------------ the page


def picture(seed: int, name: str = 'a.png', class_name: str = 'one') -> Picture:
    """A picture of noise."""
    return Picture(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8), name, class_name)


@pytest.fixture
def data(tmp_path) -> ReportData:
    """A report whose every text tries to be markup."""
    write_log(tmp_path, 's', [train_line(s, 1 / s, cls_usage=0.5, momentum_label=0.9) for s in (5, 10, 15)])
    evil = '<script>alert(1)</script>.png'
    return ReportData(
        title='run <b>$x_1</b>',
        summary=[('config', '"quoted" & <i>.py')],
        scalars=read_scalars(tmp_path),
        neighbours=[(picture(0, evil, '<u>cls'), [Neighbour(picture(1, evil, '<u>x'), 0.5, i == 0) for i in range(6)])],
        label_maps=[(picture(2, evil), np.array([[0, 1], [1, 2]])), (picture(3), np.array([[2, 2], [5, 2]]))],
        pca=[(picture(4, evil), {'trained': np.zeros((2, 2, 3)), 'random init': np.ones((2, 2, 3))})],
        results=[ResultRow('<img src=x>', {'knn': (50.0, 51.0), 'linear': (60.0,)}), ResultRow('b', {'knn': (40.0,)})],
        notes=['a <note>'],
    )


def decoded(page: str) -> str:
    """The page, and every SVG inlined in it."""
    images = re.findall(r'data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)', page)
    return page + ''.join(base64.b64decode(image).decode() for image in images)


def test_page_is_escaped_and_self_contained(tmp_path, data):
    """Names of files and classes are text, never markup, and nothing is fetched, from the SVGs neither."""
    html, png = render_report(data, tmp_path / 'out' / 'report.html')
    page = html.read_text()
    assert '<script' not in page
    assert '&lt;script&gt;alert(1)&lt;/script&gt;.png' in page
    for raw in ('<u>', '<i>', '<img src=x', '<b>$', '<note>'):
        assert raw not in page
    everything = decoded(page)
    sources = re.findall(r'(?:src|srcset|href)\s*=\s*"([^"]*)"', everything)
    assert sources
    assert all(source.startswith(('data:', '#')) for source in sources)
    assert not re.search(r'@import|url\((?!#)|<link|<iframe|DOCTYPE svg', everything)
    # the names of XML namespaces are the only addresses, and nothing loads them
    addresses = set(re.findall(r'https?://[^"\'\s<>]+', everything))
    assert all(
        address.startswith(('http://www.w3.org/', 'http://purl.org/', 'http://creativecommons.org/'))
        for address in addresses
    )
    assert 'good' in page and 'bad' in page
    assert '50.5 ± 0.7' in page
    from PIL import Image

    assert Image.open(png).width == 1800


def test_page_is_deterministic(data):
    """The same content gives the same text."""
    assert render_html(data) == render_html(data)


def test_empty_page(tmp_path):
    """A run without anything to show still has a page."""
    html, _ = render_report(ReportData('nothing'), tmp_path / 'r.html')
    assert '<section>' not in html.read_text()
    with pytest.raises(ValueError, match='must end with .html'):
        render_report(ReportData('nothing'), tmp_path / 'r.txt')


# ------------------------------------------------------------------ gathering


def test_find_config_and_checkpoint(tmp_path):
    """The config must be the only one; the checkpoint is looked for by name, so a moved directory works."""
    with pytest.raises(FileNotFoundError, match='--config'):
        find_config(tmp_path)
    (tmp_path / 'a.py').write_text('')
    assert find_config(tmp_path).name == 'a.py'
    (tmp_path / 'b.py').write_text('')
    with pytest.raises(ValueError, match='several configs'):
        find_config(tmp_path)
    assert find_checkpoint(tmp_path) is None
    for name in ('epoch_1.pth', 'epoch_2.pth'):
        (tmp_path / name).write_text('')
    (tmp_path / 'last_checkpoint').write_text('/elsewhere/run/epoch_1.pth')
    assert find_checkpoint(tmp_path).name == 'epoch_1.pth'


def test_spread_over_classes():
    """One of each class first, then a second one of each."""
    labels = torch.tensor([2, 2, 0, 0, 1, 0])
    assert spread_over_classes(labels, 5) == [2, 4, 0, 3, 1]


def test_picture_has_rgb_order():
    """Files are read as BGR; the picture is RGB."""
    sample = type('Sample', (), dict(gt_label=torch.tensor([1]), img_path='/some/where/x.png'))()
    inputs = torch.zeros(3, 4, 4, dtype=torch.uint8)
    inputs[0] = 200
    shown = to_picture(dict(inputs=inputs, data_samples=sample), ['zero', 'one'], swap_channels=True)
    assert shown.pixels[0, 0].tolist() == [0, 0, 200]
    assert (shown.name, shown.class_name) == ('x.png', 'one')


def test_label_maps_of_a_stub():
    """A model without labels gives a reason; one with labels gives its data tokens' maps."""

    class Labeller(torch.nn.Module):
        def predict_labels(self, images):
            return dict(
                cls=torch.zeros(len(images)).long(), data=torch.arange(4).view(1, 2, 2).repeat(len(images), 1, 1)
            )

    assert 'learns no labels' in predict_label_maps(torch.nn.Linear(2, 2), torch.zeros(2, 3, 4, 4))
    assert predict_label_maps(Labeller(), torch.zeros(2, 3, 4, 4)).shape == (2, 2, 2)


def test_options_are_checked():
    """Sizes below 1 are refused by name."""
    with pytest.raises(ValueError, match='queries=0'):
        ReportOptions(queries=0)


MAE_CONFIG = """
default_scope = 'mmpretrain'
arch = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)
model = dict(
    type='MAE',
    backbone=dict(type='MAEViT', arch=arch, img_size=16, patch_size=4),
    neck=dict(type='MAEPretrainDecoder', num_patches=16, patch_size=4, embed_dim=32, decoder_embed_dim=16,
              decoder_depth=1, decoder_num_heads=2),
    head=dict(type='MAEPretrainHead', patch_size=4,
              loss=dict(type='PixelReconstructionLoss', criterion='L2')),
    data_preprocessor=dict(type='SelfSupDataPreprocessor', mean=[120.] * 3, std=[60.] * 3, bgr_to_rgb=True))
pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
loader = dict(batch_size=4, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False))
custom_hooks = [dict(
    type='mmpl.FeatureProbeHook',
    train_dataloader=dict(loader, dataset=dict(type='CustomDataset', data_prefix='{root}/train', pipeline=pipeline)),
    val_dataloader=dict(loader, dataset=dict(type='CustomDataset', data_prefix='{root}/val', pipeline=pipeline)))]
train_cfg = dict(max_epochs=5)
"""


def test_report_of_an_mae_run(tmp_path):
    """From a work directory of mmpretrain's MAE to the page: right neighbours, no labels, and colours from files."""
    from mmengine.config import Config
    from PIL import Image

    from mmpl.visualization.report import build_model

    colours = {'red': (220, 30, 30), 'blue': (30, 30, 220)}
    for split, count in (('train', 12), ('val', 3)):
        for class_name, colour in colours.items():
            for index in range(count):
                noise = np.random.default_rng(index).integers(-20, 20, (16, 16, 3))
                folder = tmp_path / 'images' / split / class_name
                folder.mkdir(parents=True, exist_ok=True)
                pixels = (np.array(colour) + noise).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f'{index}<script>.png')
    work_dir = tmp_path / 'run'
    write_log(work_dir, 's', [train_line(5, 1.0)])
    (work_dir / 'mae.py').write_text(MAE_CONFIG.replace('{root}', str(tmp_path / 'images')))
    torch.manual_seed(0)
    model = build_model(Config.fromfile(work_dir / 'mae.py'))
    model.init_weights()
    torch.save(dict(meta={}, state_dict=model.state_dict()), work_dir / 'epoch_1.pth')

    data = collect_report(work_dir, options=ReportOptions(queries=4, maps=3))
    assert len(data.neighbours) == 4
    assert len(data.pca) == 3
    assert data.label_maps == []
    assert data.notes == ['Label maps: MAE learns no labels.']
    for query, found in data.neighbours:
        assert query.class_name in colours
        assert query.pixels.reshape(-1, 3).mean(0).argmax() == (0 if query.class_name == 'red' else 2)
        assert len(found) == 6
        assert all(item.correct == (item.picture.class_name == query.class_name) for item in found)
        assert sum(item.correct for item in found) >= 5
    page = build_report(work_dir, options=ReportOptions(queries=2, maps=2))[0].read_text()
    assert '<script' not in page
    assert str(tmp_path) not in page
    with pytest.raises(FileNotFoundError, match='nope'):
        collect_report(work_dir, checkpoint='nope.pth')
