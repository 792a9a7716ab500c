"""The labelling head against plain numpy, and its chunks against the whole."""

from threading import Thread

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from mmpl.models.assignment import _has_bf16, products
from mmpl.models.heads import PseudoLabelHead
from mmpl.models.heads.pseudo_label_head import LabelStats, sum_of_products
from tests.reference import labels as reference
from tests.test_models.helpers import LiveBytes


def make(seed=0, **kwargs):
    torch.manual_seed(seed)
    head = PseudoLabelHead(**{**dict(in_dims=12, num_prototypes=10, hidden_dims=16, bottleneck_dims=6), **kwargs})
    head.init_weights()
    for parameter in head.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return head


@pytest.mark.parametrize('assignment', ['centering', 'sinkhorn'])
@pytest.mark.parametrize('student_temp', [0.1, 0.3])
def test_loss_equals_the_reference(assignment, student_temp):
    student, teacher = make(0, assignment=assignment, student_temp=student_temp), make(1, assignment=assignment)
    tokens, seen = torch.randn(5, 4, 12), torch.randn(5, 4, 12)
    labels = teacher.label(seen, teacher.build_assigner(), progress=1.0)
    loss, stats = student.loss(tokens, labels, with_stats=True)

    def logits(head, x):
        z = head.projector(x.flatten(0, 1)).detach().double().numpy()
        w = head.prototypes.detach().double().numpy()
        return (z / np.linalg.norm(z, axis=1, keepdims=True)) @ (w / np.linalg.norm(w, axis=1, keepdims=True)).T

    scores = logits(teacher, seen)
    probs = reference.sinkhorn(scores, 0.07, 3) if assignment == 'sinkhorn' else reference.centering(scores, 0, 0.07)
    assert loss.item() == pytest.approx(reference.cross_entropy(probs, logits(student, tokens), student_temp), rel=1e-5)

    assert isinstance(stats, LabelStats)
    assert stats.count.item() == 20
    assert stats.entropy.item() == pytest.approx(-(probs * np.log(probs)).sum(), rel=1e-4)
    np.testing.assert_allclose(stats.probs, probs.sum(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stats.hits, np.bincount(probs.argmax(1), minlength=10))
    assert stats.agreement.item() == (probs.argmax(1) == logits(student, tokens).argmax(1)).sum()


@pytest.mark.parametrize('chunk_size', [1, 7, 20, 64])
@pytest.mark.parametrize('assignment', ['centering', 'sinkhorn'])
def test_chunks_equal_the_whole(chunk_size, assignment):
    results = []
    for size in (None, chunk_size):
        student, teacher = make(0, chunk_size=size), make(1, assignment=assignment, chunk_size=size)
        torch.manual_seed(2)
        tokens = torch.randn(20, 12, requires_grad=True)
        labels = teacher.label(torch.randn(20, 12), teacher.build_assigner(), 0.5)
        loss, stats = student.loss(tokens, labels, with_stats=True)
        loss.backward()
        results.append([loss, tokens.grad, *(p.grad for p in student.parameters()), *stats])
    for whole, chunked in zip(*results, strict=True):
        torch.testing.assert_close(whole, chunked, rtol=1e-5, atol=1e-6)  # fp32: sums in another order


def test_chunks_need_a_quarter_of_the_memory():
    """Peak of what autograd keeps for the backward pass, and of what a chunk holds at once."""
    kept = {}
    for size in (None, 256):
        head = make(num_prototypes=2048, chunk_size=size)
        teacher = make(1, num_prototypes=2048)
        labels = teacher.label(torch.randn(2048, 12), teacher.build_assigner(), 1.0)
        total = 0

        def pack(x):
            nonlocal total
            total += x.numel() * x.element_size()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            head.loss(torch.randn(2048, 12), labels)
        kept[size] = total
    assert kept[256] < 0.25 * kept[None], kept


def test_chunks_peak_at_a_quarter_of_the_memory_with_8192_prototypes():
    """Forward and backward, at the same loss and gradients to 1e-5."""
    peaks, results = {}, {}
    for size in (None, 128):
        sizes = dict(num_prototypes=8192, bottleneck_dims=64)
        student, teacher = make(chunk_size=size, **sizes), make(1, **sizes)
        torch.manual_seed(2)
        labels = teacher.label(torch.randn(1024, 12), teacher.build_assigner(), 1.0)
        tokens = torch.randn(1024, 12, requires_grad=True)
        with LiveBytes() as memory:
            loss, _ = student.loss(tokens, labels)
            (3 * loss).backward()
        peaks[size] = memory.peak
        results[size] = [loss.detach(), tokens.grad, student.prototypes.grad]
    assert peaks[None] > 2 * 4 * 8192 * 1024, 'the logits and the labels at least'
    assert peaks[128] < 0.25 * peaks[None], peaks
    for whole, chunked in zip(results[None], results[128], strict=True):
        assert (whole - chunked).norm() < 1e-5 * whole.norm()


@pytest.mark.parametrize('assignment', ['centering', 'sinkhorn'])
@pytest.mark.parametrize('chunk_size', [None, 100])
def test_products_in_bfloat16_are_close_to_those_in_float32(assignment, chunk_size):
    """Rounding to 8 bits is an error of 2^-9 a factor: loss within 1e-4, labels and gradients within 1 %."""
    results = []
    for dtype in ('float32', 'bfloat16'):
        sizes = dict(num_prototypes=512, bottleneck_dims=256, chunk_size=chunk_size, logits_dtype=dtype)
        student, teacher = make(0, **sizes), make(1, assignment=assignment, teacher_norm='batch', **sizes)
        torch.manual_seed(2)
        tokens = torch.randn(300, 12, requires_grad=True)
        labels = teacher.label(torch.randn(300, 12), teacher.build_assigner(), 1.0)
        loss, stats = student.loss(tokens, labels, with_stats=True)
        loss.backward()
        results.append([loss.detach(), stats.entropy, labels.probs(), tokens.grad, student.prototypes.grad])
    for (exact, rounded), bound in zip(zip(*results, strict=True), (1e-4, 1e-2, 1e-2, 1e-2, 1e-2), strict=True):
        assert exact.dtype == rounded.dtype == torch.float32
        assert (exact - rounded).norm() < bound * exact.norm()
    assert not torch.equal(results[0][3], results[1][3]), 'nothing was rounded'


def test_products_of_bfloat16_leave_those_of_float32_as_they_are():
    """The rounding is asked for from torch, for the whole process: also after an error it must be off again."""
    rows, columns = torch.randn(40, 300), torch.randn(300, 50)
    before, precision = rows @ columns, torch.get_float32_matmul_precision()
    products(rows.bfloat16(), columns.bfloat16())
    with pytest.raises(RuntimeError):
        products(rows.bfloat16(), columns[:7].bfloat16())
    assert torch.equal(rows @ columns, before)
    assert torch.get_float32_matmul_precision() == precision


@pytest.mark.skipif(not hasattr(torch.backends.mkldnn, 'fp32_precision'), reason='torch 2.9 or newer')
def test_products_of_bfloat16_leave_the_setting_of_the_process(monkeypatch):
    """In threads too; and what follows the general setting goes on following it."""
    monkeypatch.setattr('mmpl.models.assignment._has_bf16', lambda: True)
    factors, settings = torch.randn(30, 30).bfloat16(), torch.backends.mkldnn
    before = settings.matmul.fp32_precision
    threads = [Thread(target=lambda: [products(factors, factors) for _ in range(200)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert settings.matmul.fp32_precision == before
    try:
        for value in ('ieee', 'tf32'):
            settings.fp32_precision = value
            assert settings.matmul.fp32_precision == value
            products(factors, factors)
    finally:
        settings.fp32_precision = 'none'


def test_an_older_torch_multiplies_in_float32(monkeypatch):
    """Before 2.9 there is no setting, and up to 2.10 torch does not say what the processor has."""
    _has_bf16.cache_clear()
    monkeypatch.delattr(torch.cpu, 'get_capabilities', raising=False)
    assert not _has_bf16()
    _has_bf16.cache_clear()


@torch.no_grad()
def test_labels_are_written_where_there_is_room():
    teacher = make()
    labels = teacher.label(torch.randn(5, 12), teacher.build_assigner(), 1.0)
    room = torch.empty(2, 3, teacher.num_prototypes)
    probs = labels.probs(slice(1, 4), *room)
    assert probs.data_ptr() == room[1].data_ptr()
    torch.testing.assert_close(probs, labels.probs()[1:4])


@pytest.mark.parametrize('rows', [3, 3000])
def test_sums_of_many_products_keep_their_digits(rows):
    """At 25 million products torch.dot is wrong by 1e-3."""
    a, b = torch.rand(rows, 8192), torch.rand(rows, 8192)
    assert sum_of_products(a, b).item() == pytest.approx((a.double() * b.double()).sum().item(), rel=2e-6)


def test_products_in_bfloat16_are_exact_but_for_the_factors():
    """Against numpy in double precision, of factors that were rounded before."""
    rows, columns, plus = torch.randn(7, 300), torch.randn(300, 5), torch.randn(7, 5)
    rows, columns = rows.bfloat16(), columns.bfloat16()
    expected = rows.double().numpy() @ columns.double().numpy()
    np.testing.assert_allclose(products(rows, columns), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(products(rows, columns, plus), expected + plus.numpy(), rtol=1e-4, atol=1e-4)


def test_labels_at_places_are_those_of_the_tokens_there():
    teacher = make()
    tokens = torch.randn(2, 5, 12)
    assigner = teacher.build_assigner()
    assigner.center.uniform_()
    for length in (2, 9):  # fewer and more than there are tokens
        ids = torch.randint(0, 5, (6, length), generator=torch.Generator().manual_seed(0))
        rows = torch.stack([tokens[row // 3, place] for row, places in enumerate(ids) for place in places])
        expected = teacher.label(rows, assigner, 1.0).probs()
        torch.testing.assert_close(teacher.label(tokens, assigner, 1.0, ids).probs(), expected)


def test_gradients_by_finite_differences():
    head, teacher = make().double(), make(1).double()
    tokens = torch.randn(6, 12, dtype=torch.double)
    labels = teacher.label(torch.randn(6, 12).double(), teacher.build_assigner(), 1.0)
    head.prototypes.grad = None
    direction = torch.randn_like(head.prototypes)
    loss, _ = head.loss(tokens, labels)
    (gradient,) = torch.autograd.grad(loss, head.prototypes)
    values = []
    for step in (1e-2, -1e-2):
        head.prototypes.data += step * direction
        values.append(head.loss(tokens, labels)[0].item())
        head.prototypes.data -= step * direction
    assert (values[0] - values[1]) / 2e-2 == pytest.approx((gradient * direction).sum().item(), rel=2e-3)


def place_tokens():
    """Tokens at five places, (6, 5, 12), and their places."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 5, 12, generator=generator), torch.arange(5).expand(6, 5)


@pytest.mark.parametrize('norm', ['none', 'batch', 'position'])
def test_teacher_norm_equals_numpy(norm):
    teacher, (tokens, places) = make(1, teacher_norm=norm), place_tokens()
    labels = teacher.label(tokens, teacher.build_assigner(), 1.0, places=places, num_places=5)
    x = teacher.projector(tokens.flatten(0, 1)).detach().double().numpy()
    groups = places.flatten().numpy() if norm == 'position' else np.zeros(30, dtype=int)
    if norm != 'none':
        for group in set(groups):
            here = groups == group
            x[here] = (x[here] - x[here].mean(0)) / np.sqrt(x[here].var(0) + 1e-6)
    np.testing.assert_allclose(labels.embeddings.detach(), x / np.linalg.norm(x, axis=1, keepdims=True), atol=1e-4)


def test_student_norm_equals_torchs_batch_norm():
    """Embeddings, and gradients of the loss, through the batch's statistics too."""
    head, teacher = make(student_norm='batch'), make(1)
    tokens = torch.randn(9, 12, generator=torch.Generator().manual_seed(0))
    labels = teacher.label(tokens, teacher.build_assigner(), 1.0)
    normed = F.batch_norm(head.projector(tokens), None, None, training=True, eps=1e-6)
    torch.testing.assert_close(head(tokens), F.normalize(normed, dim=-1), rtol=1e-5, atol=1e-6)

    logits = F.normalize(normed, dim=-1) @ F.normalize(head.prototypes, dim=-1).t() / head.student_temp
    parameters = list(head.parameters())
    expected = torch.autograd.grad(F.cross_entropy(logits, labels.probs()), parameters)
    got = torch.autograd.grad(head.loss(tokens, labels)[0], parameters)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)
    head.student_norm = 'none'
    assert not torch.allclose(head.loss(tokens, labels)[0], F.cross_entropy(logits, labels.probs()), rtol=1e-3)


def test_labels_of_class_tokens_are_standardised_over_the_batch():
    tokens = torch.randn(6, 12)
    embeddings = [
        head.label(tokens, head.build_assigner(), 1.0).embeddings
        for head in (make(1, teacher_norm='batch'), make(1, teacher_norm='position'))
    ]
    assert torch.equal(*embeddings)


def test_labels_by_position_do_not_tell_the_place():
    """Tokens that depend only on their place: every label is 1 / K of each prototype, but with the other norms."""
    _, places = place_tokens()
    tokens = torch.randn(5, 12, generator=torch.Generator().manual_seed(1))[places]
    probs = {}
    for norm in ('none', 'batch', 'position'):
        teacher = make(1, teacher_norm=norm)
        probs[norm] = teacher.label(tokens, teacher.build_assigner(), 1.0, places=places, num_places=5).probs()
    torch.testing.assert_close(probs['position'], torch.full((30, 10), 0.1), rtol=0, atol=5e-3)
    for norm in ('none', 'batch'):
        assert len(torch.unique(probs[norm].argmax(1))) > 1, norm


def test_labels_by_position_do_not_change_with_what_a_place_adds():
    """A constant for each place leaves the labels alone, and they still tell the tokens apart."""
    tokens, places = place_tokens()
    offset = 5 * torch.randn(5, 12, generator=torch.Generator().manual_seed(1))[places]
    teacher = make(1, teacher_norm='position', num_layers=1)  # linear, so that the offset stays one
    probs = [
        teacher.label(x, teacher.build_assigner(), 1.0, places=places, num_places=5).probs()
        for x in (tokens, tokens + offset)
    ]
    torch.testing.assert_close(*probs, rtol=1e-3, atol=1e-4)
    assert len(torch.unique(probs[0].argmax(1))) > 3


def test_teacher_temp_rises_linearly_and_stays():
    head = make(warmup_teacher_temp=0.04, teacher_temp=0.07, warmup_ratio=0.2)
    assert [head.teacher_temp_at(p) for p in (0, 0.1, 0.2, 1)] == pytest.approx([0.04, 0.055, 0.07, 0.07])
    assert make(warmup_ratio=0).teacher_temp_at(0) == pytest.approx(0.07)


def test_under_autocast_the_labels_stay_in_fp32():
    head, teacher = make(), make(1)
    with torch.autocast('cpu', torch.bfloat16):
        labels = teacher.label(torch.randn(4, 12), teacher.build_assigner(), 1.0)
        loss, _ = head.loss(torch.randn(4, 12), labels)
    assert labels.probs().dtype == loss.dtype == torch.float32
    torch.testing.assert_close(labels.probs().sum(1), torch.ones(4))


def test_refuses_other_numbers_of_labels():
    head = make()
    labels = head.label(torch.randn(4, 12), head.build_assigner(), 1.0)
    with pytest.raises(ValueError, match='5 tokens cannot learn 4 labels'):
        head.loss(torch.randn(5, 12), labels)


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        (dict(num_prototypes=1), r'`label_head.num_prototypes` must be an integer in \[2, inf\), but got 1'),
        (dict(student_temp=0), r'`label_head.student_temp` must be a number in \(0, inf\), but got 0'),
        (dict(teacher_temp=-0.1), r'`label_head.teacher_temp` must be a number in \(0, inf\)'),
        (dict(warmup_teacher_temp=0), '`label_head.warmup_teacher_temp`'),
        (
            dict(warmup_teacher_temp=0.08),
            '`label_head.warmup_teacher_temp`, the start of the schedule, must be at most its end',
        ),
        (
            dict(assignment='kmeans'),
            r"`label_head.assignment` must be one of \['centering', 'sinkhorn'\], but got 'kmeans'",
        ),
        (dict(center_momentum=1.1), '`label_head.center_momentum`'),
        (
            dict(teacher_norm='layer'),
            r"`label_head.teacher_norm` must be one of \['batch', 'none', 'position'\], but got 'layer'",
        ),
        (
            dict(student_norm='position'),
            r"`label_head.student_norm` must be one of \['batch', 'none'\], but got 'position'",
        ),
        (dict(sinkhorn_iters=0), '`label_head.sinkhorn_iters`'),
        (dict(chunk_size=0), '`label_head.chunk_size`'),
        (dict(warmup_ratio=2), '`label_head.warmup_ratio`'),
    ],
)
def test_refuses(fields, message):
    with pytest.raises(ValueError, match=message):
        make(**fields)
