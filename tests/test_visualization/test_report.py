"""The report: numbers against independent references, a page that is safe and complete in itself."""

import base64
import copy
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.models import VisionTransformer
from mmpretrain.structures import DataSample
from PIL import Image

from mmpl.models import MaskedViT
from mmpl.utils.figures import Chart, Figure, of_part
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
    read_results,
    read_scalars,
    render_report,
)
from mmpl.visualization.charts import charts_of
from mmpl.visualization.pictures import rank_labels
from mmpl.visualization.report import (
    _images_of_folder,
    build_report,
    class_attention,
    collect_report,
    find_config,
    patch_grid,
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


def test_pca_rgb_is_fit_over_the_batch():
    """Colours are the three directions of largest variance over all patches, each stretched from 0 to 1."""
    features = torch.randn(4, 9, 6, generator=torch.Generator().manual_seed(0)).double() * torch.arange(1, 7) + 5
    features[3, 2] = features[0, 5]
    colours = pca_rgb(features, quantile=0.0)
    assert torch.equal(colours[3, 2], colours[0, 5])
    rows = features.flatten(0, 1).numpy()
    variances, directions = np.linalg.eigh(np.cov(rows.T))
    expected = (rows - rows.mean(0)) @ directions[:, np.argsort(variances)[::-1][:3]]
    expected = (expected - expected.min(0)) / (expected.max(0) - expected.min(0))
    found = colours.flatten(0, 1).numpy()
    for component in range(3):  # its sign is free
        errors = [np.abs(found[:, component] - e).max() for e in (expected[:, component], 1 - expected[:, component])]
        assert min(errors) < 1e-6
    # a direction's largest loading is positive, so mirrored features have the same directions
    torch.testing.assert_close(pca_rgb(-features, quantile=0.0), 1 - colours)
    clipped = pca_rgb(features, quantile=0.1).flatten(0, 1)
    assert ((clipped == 0).sum(0) == 4).all() and ((clipped == 1).sum(0) == 4).all()  # a tenth of 36 at either end
    assert torch.isfinite(pca_rgb(torch.ones(2, 4, 5))).all()  # all patches alike
    with pytest.raises(ValueError, match='NaN'):
        pca_rgb(torch.full((2, 4, 5), float('nan')))
    with pytest.raises(ValueError, match='n_components=3'):
        pca_rgb(torch.ones(1, 2, 5))


def test_neighbours_equal_brute_force():
    """Cosine, not dot product: each query is compared with each bank row by itself."""
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(5, 8, generator=generator)
    bank = torch.randn(40, 8, generator=generator) * torch.rand(40, 1, generator=generator) * 10
    values, indices = nearest_neighbours(queries, bank, 6)
    cosines = torch.tensor([[q @ b / (q.norm() * b.norm()) for b in bank.double()] for q in queries.double()])
    expected, order = cosines.sort(descending=True)
    assert torch.equal(indices, order[:, :6])
    torch.testing.assert_close(values, expected[:, :6], atol=1e-6, rtol=0, check_dtype=False)


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
    assert (scalars.epochs, scalars.iterations) == (3, 28)


@pytest.mark.parametrize(('before', 'after'), [(100, 50), (50, 100)])
def test_a_run_that_went_on_with_other_epochs(before, after, tmp_path):
    """As on twice or half the GPUs: ten epochs, of which the last two were done again, and ten of another length."""

    def lines(epochs, length) -> list[dict]:
        steps = [(epoch, (epoch - 1) * length + step) for epoch in epochs for step in (length // 2, length)]
        return [dict(loss=step / length, epoch=epoch, iter=step, step=step) for epoch, step in steps]

    write_log(tmp_path, '20260101_000000', lines(range(1, 11), before))
    write_log(tmp_path, '20260102_000000', lines(range(9, 21), after))
    x, y = read_scalars(tmp_path).curve('loss')
    assert x == y == [step / 2 for step in range(1, 41)]


@pytest.mark.parametrize('factor', [0.5, 2, 1.1])
def test_a_run_that_went_on_amid_an_epoch_with_another_length(factor, tmp_path):
    """As mmengine's own loop does with another batch: what its lines say of the length holds for no length at all."""
    write_log(tmp_path, '20260101_000000', [train_line(s, 1.0) for s in (5, 15, 25, 35)])
    length = 10 * factor
    lines = [train_line(s, 2.0) | dict(epoch=4 + int((s - 35) // length)) for s in range(36, 70, 3)]
    write_log(tmp_path, '20260102_000000', lines)
    assert [y for _, y in read_scalars(tmp_path).series['loss']] == [1.0] * 4 + [2.0] * len(lines)


def test_started_anew_in_the_same_directory(tmp_path):
    """A run that starts again from step 0 replaces all of the first, also series that it does not have."""
    write_log(tmp_path, '20260101_000000', [train_line(s, 1.0, loss_recon=1.0) for s in (5, 10)])
    write_log(tmp_path, '20260102_000000', [train_line(5, 2.0)])
    assert read_scalars(tmp_path).series == {'loss': [(5, 2.0)]}


def test_odd_logs(tmp_path):
    """No log: no series. A half-written last line is left out; a broken one in between is an error."""
    assert read_scalars(tmp_path).series == {}
    write_log(tmp_path, 's', [train_line(5, 1.0)])
    file = tmp_path / 's' / 'vis_data' / 'scalars.json'
    line = file.read_text()
    file.write_text(line + '{"loss": 0.')
    assert read_scalars(tmp_path).series == {'loss': [(5, 1.0)]}
    file.write_text('{"loss": 0.\n' + line)
    with pytest.raises(ValueError, match='line 1 of scalars.json'):
        read_scalars(tmp_path)


def test_epochs_are_those_of_the_last_start(tmp_path):
    write_log(tmp_path, '1', [train_line(step, 1.0) for step in (500, 1000)])
    write_log(tmp_path, '2', [train_line(step, 1.0) for step in (5, 15)])
    assert (read_scalars(tmp_path).epochs, read_scalars(tmp_path).iterations) == (2, 15)


def test_a_run_that_counts_iterations(tmp_path):
    """mmengine writes epoch 1 into each of its lines."""
    write_log(tmp_path, 's', [dict(train_line(step, 1.0), epoch=1) for step in (5, 15)])
    scalars = read_scalars(tmp_path, by_epoch=False)
    assert scalars.curve('loss') == ([5, 15], [1.0, 1.0]) and scalars.x_label == 'iteration'
    (tmp_path / 'c.py').write_text("model = dict(type='No', backbone=dict())\ntrain_cfg = dict(max_iters=60)")
    assert ('iterations', '15 of 60') in collect_report(tmp_path).summary


def test_what_was_probed_before_training_alone_is_no_result(tmp_path):
    before = {'probe/knn_top1': 30.0, 'probe/linear_top1': 40.0, 'epoch': 0, 'iter': 0}
    write_log(tmp_path, 's', [before, train_line(5, 1.0), {'probe/knn_top1': 50.0, 'epoch': 1, 'iter': 10}])
    (tmp_path / 'c.py').write_text("model = dict(type='No', backbone=dict())")
    assert collect_report(tmp_path).results == [
        ResultRow('this run', {'knn': (50.0,)}),
        ResultRow('before training', {'knn': (30.0,), 'linear': (40.0,)}),
    ]


def test_charts_follow_log_and_declarations(tmp_path):
    """Losses and probes have charts without any declaration; a part has one colour in all charts."""
    logged = dict(loss_x=1.0, loss_two_words=1.0, cls_use=0.5, data_use=0.6, data_spread=0.1, momentum=0.9, lr=1e-3)
    write_log(tmp_path, 's', [train_line(5, 1.0, **logged), {'probe/knn_top1': 50.0, 'epoch': 1, 'iter': 10}])
    scalars = read_scalars(tmp_path)

    def shown(*declared) -> dict:
        charts = charts_of(scalars, *declared)
        return {c.title: [(line.key, line.figure.label, line.colour) for line in lines] for c, lines in charts.items()}

    losses = [('loss', 'total', 0), ('loss_x', 'x', 1), ('loss_two_words', 'two words', 2)]
    assert shown() == {'Loss': losses, 'Frozen features': [('probe/knn_top1', 'kNN', 0)]}
    use, spread, schedule = Chart('Use', 'How many.'), Chart('Spread', 'How far.'), Chart('Schedule', 'When.')
    declared = {'use': Figure('in use', use), 'spread': Figure('apart', spread), 'absent': Figure('?', spread)}
    figures = of_part('cls', 'class token', declared) | of_part('data', 'data tokens', declared)
    figures |= dict(momentum=Figure('teacher', schedule), whole_use=Figure('all', use))
    charts = shown(figures, {'loss_x': 'the first'})
    assert charts['Loss'][1] == ('loss_x', 'the first', 1)
    assert list(charts) == ['Loss', 'Frozen features', 'Use', 'Spread', 'Schedule']
    assert charts['Use'] == [('cls_use', 'class token, in use', 0), ('data_use', 'data tokens, in use', 1)]
    assert charts['Spread'] == [('data_spread', 'data tokens, apart', 1)]
    assert charts['Schedule'] == [('momentum', 'teacher', 0)]
    scalars.series['whole_use'] = [(5, 0.7)]  # of no part: a colour that no part has
    assert shown(figures)['Use'][2] == ('whole_use', 'all', 2)


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


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> ReportData:
    """A report whose every text tries to be markup."""
    work_dir = tmp_path_factory.mktemp('work')
    write_log(work_dir, 's', [train_line(s, 1 / s, cls_usage=0.5 - s / 100) for s in (5, 10, 15)])
    evil = '<script>alert(1)</script>.png'
    return ReportData(
        title='run <b>$x_1</b>',
        summary=[('config', '"quoted" & <i>.py')],
        scalars=read_scalars(work_dir),
        figures=dict(cls_usage=Figure('<s>use</s>', Chart('<h4>', '<h5>', '<h6>'))),
        losses=dict(loss='<s>sum</s>'),
        neighbours=[(picture(0, evil, '<u>cls'), [Neighbour(picture(1, evil, '<u>x'), 0.5, i == 0) for i in range(6)])],
        label_maps=[(picture(2, evil), np.array([[0, 1], [1, 2]])), (picture(3), np.array([[2, 2], [5, 2]]))],
        pca=[(picture(4, evil), {'trained': np.zeros((2, 2, 3)), 'random init': np.ones((2, 2, 3))})],
        attention=[(picture(6, evil), {'trained': np.eye(2), 'random init': np.ones((2, 2))})],
        results=[ResultRow('<img src=x>', {'knn': (50.0, 51.0), 'linear': (60.0,)}), ResultRow('b', {'knn': (40.0,)})],
        notes=['a <note>'],
    )


@pytest.fixture(scope='module')
def report(data, tmp_path_factory) -> tuple[Path, Path]:
    """Page and picture."""
    return render_report(data, tmp_path_factory.mktemp('out') / 'new' / 'report.html')


def drawings(page: str) -> list[str]:
    """Every SVG inlined in a page."""
    images = re.findall(r'data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)', page)
    return [base64.b64decode(image).decode() for image in images]


def test_page_is_escaped_and_self_contained(report):
    """Names of files and classes are text, never markup, and nothing is fetched, from the SVGs neither."""
    page = report[0].read_text()
    assert '&lt;script&gt;alert(1)&lt;/script&gt;.png' in page
    everything = '\n'.join([page, *drawings(page)])
    for raw in ('<script', '<u>', '<i>', '<img src=x', '<b>$', '<note>', '<s>', '<h4>', '<h5>', '<h6>'):
        assert raw not in everything
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
    assert '<td class="best">50.5 ± 0.7</td>' in page
    with Image.open(report[1]) as image:
        assert image.width == 1800


def test_page_in_words_and_in_the_dark(report):
    """Every figure has a text that says what is seen, and takes the ink of the reader's theme."""
    page = report[0].read_text()
    alts = re.findall(r'<img src="data:[^"]*" alt="([^"]*)"', page)
    assert len(alts) == page.count('<img') == 7
    assert alts[0] == 'Chart: Loss. &lt;s&gt;sum&lt;/s&gt; from 0.2 to 0.06667.'
    assert alts[1].endswith('from 0.45 to 0.35.')
    assert alts[2].count('✓ 0.500 &lt;u&gt;x: ') == 1 and alts[2].count('✗ 0.500 &lt;u&gt;x: ') == 5
    assert alts[5].endswith('(image, trained, random init)') and alts[6].endswith('(image, trained, random init)')
    chart, *_, components, attention = found = drawings(page)
    assert all('@media (prefers-color-scheme:dark){svg{--ink:#e6e8eb;' in svg for svg in found)
    assert all(svg.count('#6a737d') == 1 and 'fill: var(--soft)' in svg for svg in found)  # where it is defined
    assert '#0072b2' in chart and '#009e73' in found[2] and '#d55e00' in found[2]
    assert components.count('<image') == attention.count('<image') == 3


def test_report_is_deterministic(report, data, tmp_path):
    """The same content gives the same page and the same picture."""
    again = render_report(data, tmp_path / 'r.html')
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in report]


def test_empty_page(tmp_path):
    """A run without anything to show still has a page."""
    html, _ = render_report(ReportData('nothing'), tmp_path / 'r.html')
    assert '<section>' not in html.read_text()
    with pytest.raises(ValueError, match='must end with .html'):
        render_report(ReportData('nothing'), tmp_path / 'r.txt')


# ------------------------------------------------------------------ gathering


def test_a_name_that_is_no_page_is_refused_before_the_work(tmp_path):
    with pytest.raises(ValueError, match="out='report.pdf' must end with .html"):
        build_report(tmp_path / 'there is no run', out=tmp_path / 'report.pdf')


def test_names_that_are_not_utf8():
    item = dict(inputs=torch.zeros(3, 2, 2), data_samples=DataSample(img_path='x/x\udce9.png').set_gt_label(-1))
    assert to_picture(item, (), True).name == 'x\ufffd.png'


def test_find_config(tmp_path):
    """The config must be the only one."""
    with pytest.raises(FileNotFoundError, match='--config'):
        find_config(tmp_path)
    (tmp_path / 'a.py').write_text('')
    assert find_config(tmp_path).name == 'a.py'
    (tmp_path / 'b.py').write_text('')
    with pytest.raises(ValueError, match='several configs'):
        find_config(tmp_path)


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
    for channels in (1, 2, 4, 5):  # the first, in grey
        inputs = torch.arange(channels).view(-1, 1, 1).expand(-1, 4, 4) + 7
        shown = to_picture(dict(inputs=inputs, data_samples=sample), ['zero', 'one'], swap_channels=True)
        assert shown.pixels.shape == (4, 4, 3) and (shown.pixels == 7).all()


def test_label_maps_of_a_stub():
    """A model without labels gives a reason; one with labels gives its data tokens' maps."""
    images = torch.zeros(2, 3, 4, 4)

    class Labeller(torch.nn.Module):
        labels = dict(cls=torch.zeros(2).long(), data=torch.arange(8).view(2, 2, 2))

        def predict_labels(self, images):
            if not self.labels:
                raise RuntimeError('the labels weigh nothing')
            if len(images) == 1:
                raise ValueError('take a larger batch')
            return self.labels

    assert predict_label_maps(torch.nn.Linear(2, 2), images) == 'Label maps: Linear learns no labels.'
    model = Labeller()
    assert np.array_equal(predict_label_maps(model, images), model.labels['data'])
    assert predict_label_maps(model, images[:1]).endswith('compare images with each other, and there is only one.')
    model.labels = dict(cls=model.labels['cls'])
    assert predict_label_maps(model, images) == 'Label maps: this run labels no data tokens.'
    model.labels = {}
    assert predict_label_maps(model, images) == 'Label maps: the labels weigh nothing'


def test_patch_grid():
    """Tokens lose what stands before the patches and become rows; a map keeps its places."""

    class Encoder(torch.nn.Module):
        backbone = torch.nn.Identity()
        tokens = torch.arange(14.0).view(1, 7, 2)

        def extract_feat(self, images):
            return (self.tokens,)

    model = Encoder()
    assert patch_grid(model, torch.zeros(1, 3, 8, 12))[0, :, :, 0].tolist() == [[2, 4, 6], [8, 10, 12]]
    model.backbone.num_extra_tokens = 3
    assert patch_grid(model, torch.zeros(1, 3, 8, 8))[0, :, :, 0].tolist() == [[6, 8], [10, 12]]
    model.backbone.num_extra_tokens = 0
    model.tokens = torch.zeros(1, 5 * 63, 2)  # patches of 8, the last ones padded
    assert patch_grid(model, torch.zeros(1, 3, 36, 500)).shape == (1, 5, 63, 2)
    model.tokens = torch.arange(14.0).view(1, 7, 2)
    with pytest.raises(ValueError, match='7 patch tokens do not form a grid over images of 8 x 12'):
        patch_grid(model, torch.zeros(1, 3, 8, 12))
    model.tokens = torch.arange(12.0).view(1, 2, 2, 3)
    assert patch_grid(model, torch.zeros(1, 3, 8, 12))[0, :, :, 1].tolist() == [[6, 7, 8], [9, 10, 11]]


@pytest.mark.parametrize('heads', [1, 4])
def test_attention_of_the_class_token(heads):
    """Against softmax(q k^T / sqrt(d)) head by head in numpy, from the weights and the tokens before the last block."""
    arch = dict(embed_dims=16, num_layers=3, num_heads=heads, feedforward_channels=32)
    torch.manual_seed(0)
    backbone = MaskedViT(arch=arch, img_size=16, patch_size=8)
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter)  # far from uniform attention
    images = torch.rand(2, 3, 16, 24)
    found = class_attention(SelfSupervised(backbone), images)
    assert found.shape == (2, 2, 3)
    with torch.no_grad():
        _, (before, _) = backbone.encode(images, last_blocks=2)
        block = backbone.layers[-1]
        tokens = block.ln1(before).double().numpy()  # (2, 1 + 6, 16)
    weight, bias = (value.detach().double().numpy() for value in (block.attn.qkv.weight, block.attn.qkv.bias))
    query, key = (tokens @ weight[i * 16 : i * 16 + 16].T + bias[i * 16 : i * 16 + 16] for i in (0, 1))
    size, shares = 16 // heads, []
    for head in range(heads):
        part = slice(head * size, head * size + size)
        scores = np.einsum('bd,bnd->bn', query[:, 0, part], key[:, :, part]) / size**0.5
        shares.append(np.exp(scores) / np.exp(scores).sum(1, keepdims=True))
    expected = np.mean(shares, axis=0)
    np.testing.assert_allclose(found.reshape(2, 6), expected[:, 1:], atol=1e-5)
    assert expected[:, 1:].std() > 0.05
    no_token = VisionTransformer(arch, 16, 8, with_cls_token=False, out_type='featmap')
    assert class_attention(SelfSupervised(no_token), images) == 'Attention maps: the encoder has no class token.'


class SelfSupervised(torch.nn.Module):
    """An encoder as a report looks at one."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def extract_feat(self, images):
        return self.backbone(images)


def test_options_are_checked():
    """Sizes below 1 are refused by name."""
    with pytest.raises(ValueError, match='`queries` must be an integer in .1, inf., but got 0'):
        ReportOptions(queries=0)
    with pytest.raises(TypeError, match="`maps` must be an integer .* but got '3'"):
        ReportOptions(maps='3')


COLOURS = {'red': (220, 30, 30), 'blue': (30, 30, 220)}


@pytest.fixture(scope='module')
def colour_images(tmp_path_factory) -> Path:
    """Noise around two colours, a class each."""
    root = tmp_path_factory.mktemp('images')
    for split, count in (('train', 12), ('val', 3)):
        for class_name, colour in COLOURS.items():
            folder = root / split / class_name
            folder.mkdir(parents=True)
            for index in range(count):
                noise = np.random.default_rng(index).integers(-20, 20, (16, 16, 3))
                pixels = (np.array(colour) + noise).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f'{index}<script>.png')
    return root


def test_a_bad_file_does_not_end_a_report(tmp_path):
    """It is replaced, as it was in training."""
    import mmpretrain.datasets  # noqa: F401

    for number in range(3):
        Image.fromarray(np.full((16, 16, 3), 50 * number, np.uint8)).save(tmp_path / f'{number}.png')
    (tmp_path / 'x.png').write_bytes(b'no image')
    init_default_scope('mmpretrain')
    images = _images_of_folder(Config(), tmp_path)
    shown = [int(images[index]['inputs'].max()) for index in range(len(images))]
    assert shown[:3] == [0, 50, 100] and len(shown) == 4 and shown[3] in (0, 50, 100)


@pytest.mark.parametrize('method', ['MAE', 'BEiT'])
def test_report_of_a_run_of_mmpretrain(tmp_path, colour_images, tiny_mae_config, method, monkeypatch):
    """From a work directory to the page: right neighbours, no labels, and colours from files."""
    import mmpretrain.models
    from mmpretrain.registry import MODELS

    cfg = Config.fromfile(tiny_mae_config)
    if method == 'BEiT':
        del cfg.model.backbone['mask_ratio'], cfg.model['neck']
        cfg.merge_from_dict(dict(model=dict(type=method, backbone=dict(type='BEiTPretrainViT', out_type='raw'))))
        cfg.model.head = dict(type='BEiTV1Head', embed_dims=16, num_embed=8, loss=dict(type='CrossEntropyLoss'))
    probe = dict(type='mmpl.FeatureProbeHook')
    for split in ('train', 'val'):
        loader = probe[f'{split}_dataloader'] = copy.deepcopy(cfg.train_dataloader)
        loader.dataset.update(data_root=str(colour_images / split), with_label=True)
    cfg.custom_hooks = [probe]
    work_dir = tmp_path / 'run'
    write_log(work_dir, 's', [train_line(5, 1.0, health=3.0)])
    cfg.dump(work_dir / 'config.py')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    torch.save(dict(meta={}, state_dict=model.state_dict()), work_dir / 'epoch_1.pth')
    (work_dir / 'epoch_2.pth').write_bytes(b'')
    (work_dir / 'last_checkpoint').write_text('/elsewhere/run/epoch_2.pth')
    monkeypatch.setattr(getattr(mmpretrain.models, method), 'figures', {'health': Figure('h', Chart('H', 'h'))}, False)

    data = collect_report(work_dir, options=ReportOptions(queries=4, maps=3))
    assert dict(data.summary)['checkpoint'] == 'epoch_1.pth'
    no_attention = ['Attention maps: not known how to read those of BEiTAttention.'] if method == 'BEiT' else []
    no_labels = f'Label maps: {method} learns no labels.'
    assert data.notes == ['Checkpoint epoch_2.pth: it is empty', no_labels, *no_attention]
    assert len(data.attention) == 3 * (method == 'MAE')
    assert len(data.neighbours) == 4
    assert len(data.pca) == 3
    assert all(maps['trained'].shape == maps['random init'].shape == (4, 4, 3) for _, maps in data.pca)
    assert data.label_maps == []
    assert list(data.figures) == ['health']
    for query, found in data.neighbours:
        assert query.class_name in COLOURS
        assert query.pixels.reshape(-1, 3).mean(0).argmax() == (0 if query.class_name == 'red' else 2)
        assert len(found) == 6
        assert all(item.correct == (item.picture.class_name == query.class_name) for item in found)
        assert sum(item.correct for item in found) >= 5
    page = build_report(work_dir, options=ReportOptions(queries=2, maps=2))[0].read_text()
    assert '<h3>H</h3>' in page
    assert '<script' not in page
    assert str(tmp_path) not in page
    with pytest.raises(FileNotFoundError, match='nope'):
        collect_report(work_dir, checkpoint='nope.pth')
    if method == 'MAE':
        check_maps_of_a_folder(work_dir, tmp_path / 'scenes')


def check_maps_of_a_folder(work_dir: Path, folder: Path) -> None:
    """Components and attention are those of the images there, at their own size; neighbours stay the probe's."""
    folder.mkdir()
    for i in range(2):
        noise = np.random.default_rng(i).integers(0, 255, (16, 32, 3), np.uint8)
        Image.fromarray(noise).save(folder / f'scene_{i}.png')
    data = collect_report(work_dir, options=ReportOptions(queries=2, maps=3), maps_of=folder)
    assert [picture.name for picture, _ in data.pca] == ['scene_0.png', 'scene_1.png']
    assert all(maps['trained'].shape == maps['random init'].shape == (4, 8, 3) for _, maps in data.pca)
    assert all(picture.pixels.shape == (16, 32, 3) for picture, _ in data.attention)
    assert np.array_equal(data.pca[1][0].pixels, noise)
    assert [query.class_name for query, _ in data.neighbours] == ['blue', 'red']
    Image.fromarray(noise[:8]).save(folder / 'wide.png')
    data = collect_report(work_dir, maps_of=folder)
    assert len(data.neighbours) > 1 and data.pca == []
    assert data.notes[-1] == (
        'Pictures end here: the images whose maps are shown must have one size, but have [(8, 32), (16, 32)] (height, '
        'width)'
    )


def test_images_that_were_moved_cost_no_curves(tmp_path, tiny_mae_config):
    """And repeated ones are shown once, checkpoints found where they are kept."""
    import mmpretrain.datasets  # noqa: F401
    from mmpretrain.registry import MODELS

    cfg = Config.fromfile(tiny_mae_config)
    cfg.default_hooks.checkpoint.out_dir = str(tmp_path / 'kept')
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=3, dataset=cfg.train_dataloader.dataset)
    write_log(tmp_path / 'run', 's', [train_line(5, 1.0)])
    cfg.dump(tmp_path / 'run' / 'config.py')
    (tmp_path / 'kept' / 'run').mkdir(parents=True)
    state = MODELS.build(cfg.model).state_dict()
    torch.save(dict(meta={}, state_dict=state), tmp_path / 'kept' / 'run' / 'epoch_1.pth')
    data = collect_report(tmp_path / 'run', options=ReportOptions(queries=4, maps=2))
    count = len(list(Path(cfg.train_dataloader.dataset.dataset.data_root).rglob('*.png')))
    assert ('training images searched', f'{count - 4} of {count}') in data.summary
    cfg.train_dataloader.dataset.dataset.update(data_root=str(tmp_path / 'moved'))
    cfg.dump(tmp_path / 'run' / 'config.py')
    data = collect_report(tmp_path / 'run')
    assert 'loss' in data.scalars.series and re.match('Pictures: .*moved', data.notes[-1])
    for number in range(4):
        (tmp_path / 'moved').mkdir(exist_ok=True)
        (tmp_path / 'moved' / f'{number}.png').write_bytes(b'no image')
    data = collect_report(tmp_path / 'run')
    assert 'loss' in data.scalars.series and data.notes[-1].startswith('Pictures end here: ')


def test_model_that_cannot_be_built(tmp_path):
    """Its losses and probes are still drawn, and a note says what is missing and why."""
    write_log(tmp_path, 's', [train_line(5, 1.0), {'probe/knn_top1': 50.0, 'epoch': 1, 'iter': 10}])
    (tmp_path / 'c.py').write_text("model = dict(type='mmpl.Nothing', backbone=dict())")
    page = build_report(tmp_path)[0].read_text()
    assert re.findall('<h3>(.*)</h3>', page) == ['Loss', 'Frozen features']
    notes = collect_report(tmp_path).notes
    assert notes[0] == 'Pictures: there is no whole checkpoint (epoch_*.pth, iter_*.pth) in the work directory.'
    assert re.match('Pictures, and charts of schedules and of health: the model cannot be built: .*Nothing', notes[1])


def test_run_without_log_and_labelled_images(tmp_path, tiny_mae_config):
    """With neither a FeatureProbeHook nor a training set there are no pictures."""
    torch.save({}, tmp_path / 'iter_7.pth')
    cfg = Config.fromfile(tiny_mae_config)
    cfg.pop('train_dataloader')
    (tmp_path / 'config').mkdir()
    cfg.dump(tmp_path / 'config' / 'bare.py')
    curves, pictures = collect_report(tmp_path, tmp_path / 'config' / 'bare.py').notes
    assert curves.startswith('Curves: there is no log')
    assert re.match('Pictures: `custom_hooks` must hold exactly one mmpl.FeatureProbeHook.*but it holds 0', pictures)
