"""The classifier of visual question answering."""

import math

import pytest
import torch
from mmpretrain.structures import DataSample

from mmpl.checkpoints.fit import CheckpointMismatchError
from mmpl.datasets.vqa import Vocabulary
from mmpl.models.vqa.blocks import Attention
from mmpl.registry import MODELS
from mmpl.utils.fields import FieldTypeError

VOCABULARY = Vocabulary(tuple('abcdef'), ('yes', 'no', 'red', 'blue', '2'))
ARCH = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
PIXELS = dict(type='mmpl.VQAPreprocessor', mean=[10.0, 20.0, 30.0], std=[2.0] * 3, bgr_to_rgb=True)


def build(**kwargs):
    torch.manual_seed(0)
    fields = dict(
        backbone=dict(type='mmpretrain.VisionTransformer', arch=ARCH, img_size=16, patch_size=8, out_type='raw'),
        vocabulary=VOCABULARY,
        dims=12,
        num_heads=3,
        text_layers=2,
        fusion_layers=2,
        max_length=6,
        data_preprocessor=PIXELS,
    )
    model = MODELS.build(dict(type='mmpl.VQAClassifier', **(fields | kwargs)))
    model.init_weights()
    return model.eval()


def batch():
    torch.manual_seed(1)
    return dict(
        image=torch.randn(4, 3, 16, 16),
        question=torch.tensor([[2, 3, 4, 0, 0, 0], [2, 5, 6, 7, 8, 3], [2, 0, 0, 0, 0, 0], [2, 1, 4, 4, 0, 0]]),
        answer_ids=torch.tensor([[0, 1] + [0] * 8, [2] + [0] * 9, [0] * 10, [4, 3, 1] + [0] * 7]),
        answer_scores=torch.tensor([[1.0, 0.6] + [0] * 8, [0.3] + [0] * 9, [0.0] * 10, [0.9, 0.6, 0.3] + [0] * 7]),
    )


def test_attention_is_the_weighted_mean_of_the_masked_in():
    torch.manual_seed(0)
    attention = Attention(8, 2, 0.0)
    x, other, mask = torch.randn(2, 3, 8), torch.randn(2, 4, 8), torch.rand(2, 4) > 0.4
    mask[:, 0] = True
    query, (key, value) = attention.query(x), attention.key_value(other).chunk(2, -1)
    want = torch.zeros(2, 3, 8)
    query, key = query.detach(), key.detach()
    for b in range(2):
        for h in range(2):
            part = slice(4 * h, 4 * h + 4)
            for i in range(3):
                logits = [float(query[b, i, part] @ key[b, j, part]) / 2 if mask[b, j] else -math.inf for j in range(4)]
                weights = torch.tensor(logits).softmax(0)
                want[b, i, part] = sum(w * value[b, j, part] for j, w in enumerate(weights))
    torch.testing.assert_close(attention(x, other, mask), attention.out(want), atol=1e-5, rtol=1e-5)


def test_loss_is_the_closed_form():
    model, inputs = build(), batch()
    logits = model(inputs)
    total = 0.0
    for row in range(4):
        targets = [0.0] * 5
        for i, score in zip(inputs['answer_ids'][row].tolist(), inputs['answer_scores'][row].tolist(), strict=True):
            targets[i] += score
        for score, target in zip(logits[row].tolist(), targets, strict=True):
            p = 1 / (1 + math.exp(-score))
            total -= target * math.log(p) + (1 - target) * math.log(1 - p)
    loss = model(inputs, mode='loss')
    assert set(loss) == {'loss'} and float(loss['loss'].detach()) == pytest.approx(total / 4, rel=1e-5)
    loss['loss'].backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def test_padding_changes_nothing():
    """Neither what the word behind the end of a question is embedded as, nor how much padding there is."""
    model, inputs = build(), batch()
    before = model(inputs)
    with torch.no_grad():
        model.question.words.weight[0] += 100
        model.question.places.weight[4:] *= -3
    after = model(inputs)
    short = torch.tensor([0, 2, 3])  # their questions end before the fifth place
    torch.testing.assert_close(after[short], before[short])
    assert not torch.allclose(after[1], before[1])
    cut = model(dict(inputs, question=inputs['question'][:, :4]))
    torch.testing.assert_close(cut[short], before[short])


def test_looks_at_the_image_unless_blind():
    inputs = batch()
    others = dict(inputs, image=inputs['image'][[1, 2, 3, 0]])
    seeing, blind = build(), build(blind=True)
    assert (seeing(inputs) - seeing(others)).abs().max() > 1e-4
    assert torch.equal(blind(inputs), blind(others))
    assert (blind(inputs) - blind(dict(inputs, question=inputs['question'][[1, 2, 3, 0]]))).abs().max() > 1e-4
    assert not any(p.requires_grad for p in blind.backbone.parameters())
    for model in (seeing, blind):
        model(inputs, mode='loss')['loss'].backward()
        unused = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert not unused, 'DistributedDataParallel would wait for them'
    assert set(seeing.state_dict()) == set(blind.state_dict())


def test_frozen_encoder_gets_no_gradient():
    frozen = dict(
        type='mmpretrain.VisionTransformer', arch=ARCH, img_size=16, patch_size=8, out_type='raw', frozen_stages=2
    )
    model = build(backbone=frozen)
    model(batch(), mode='loss')['loss'].backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    assert model.fusion.project.weight.grad.abs().sum() > 0


def test_tokens_of_a_frozen_encoder_are_standardised():
    """Those of one that is trained go on as they are."""
    vit = dict(type='mmpretrain.VisionTransformer', arch=ARCH, img_size=16, patch_size=8, out_type='raw')
    for frozen_stages in (2, -1):
        model, seen = build(backbone=dict(vit, frozen_stages=frozen_stages)).train(), []
        model.fusion.project.register_forward_hook(lambda _, inputs, __, seen=seen: seen.append(inputs[0]))
        image = batch()['image']
        model.logits(image, batch()['question'])
        tokens = model.backbone(image)[-1]
        if frozen_stages > 0:
            flat = tokens.flatten(0, 1)
            tokens = ((flat - flat.mean(0)) / flat.std(0, unbiased=False)).view_as(tokens)
        torch.testing.assert_close(seen[0], tokens, rtol=1e-4, atol=1e-4)


def test_predictions_and_preprocessing():
    model, inputs = build(), batch()
    raw = torch.randint(0, 255, (4, 3, 16, 16), dtype=torch.uint8)
    data = dict(inputs=dict(question=inputs['question'], image=raw), data_samples=[DataSample() for _ in range(4)])
    samples = model.test_step(data)
    images = (raw[:, [2, 1, 0]].float() - torch.tensor([10.0, 20.0, 30.0]).view(3, 1, 1)) / 2
    logits = model(dict(inputs, image=images))
    for sample, row in zip(samples, logits, strict=True):
        assert sample.pred_answer == VOCABULARY.answers[int(row.argmax())]
        assert sample.pred_score == pytest.approx(float(row.max().sigmoid().detach()), rel=1e-5)


def test_checkpoints_keep_their_vocabulary():
    model = build()
    build().load_state_dict(model.state_dict())
    renamed = Vocabulary(tuple('abcdef'), ('yes', 'no', 'red', 'blue', '3'))
    with pytest.raises(CheckpointMismatchError, match='another vocabulary, of 9 words and 5 answers'):
        build(vocabulary=renamed).load_state_dict(model.state_dict())
    kept = bytes(model.state_dict()['vocabulary_text'].tolist()).decode()
    assert Vocabulary.from_json(kept) == VOCABULARY


@pytest.mark.parametrize(
    'fields, error, message',
    [
        (dict(num_heads=5), ValueError, '`dims` must be a multiple of `num_heads` 5, but got 12'),
        (dict(fusion_layers=0), ValueError, '`fusion_layers` must be'),
        (dict(drop_rate=2.0), ValueError, '`drop_rate` must be'),
        (dict(vocabulary='words.json'), FieldTypeError, "`vocabulary` must be a dict .* got 'words.json'"),
        (dict(fusion_layer=2), FieldTypeError, 'did you mean `fusion_layers`'),
        (
            dict(backbone=dict(type='mmpretrain.VisionTransformer', out_type='cls_token')),
            ValueError,
            "out_type` must be 'raw'",
        ),
    ],
)
def test_refuses_fields(fields, error, message):
    with pytest.raises(error, match=message):
        build(**fields)


def raw_data(vocabulary=VOCABULARY, channels=3, **kwargs):
    image = torch.randint(0, 255, (4, channels, 16, 16), dtype=torch.uint8)
    inputs = dict(question=batch()['question'], image=image, vocabulary=torch.tensor([vocabulary.digest] * 4))
    return dict(inputs=inputs | kwargs, data_samples=[DataSample() for _ in range(4)])


def test_data_of_another_vocabulary_are_refused():
    """As many words and answers in another order would be learned, and tested, without an error."""
    model = build()
    model.test_step(raw_data())
    other = Vocabulary(VOCABULARY.words, VOCABULARY.answers[::-1])
    with pytest.raises(ValueError, match=r"another `vocabulary` than the model's, of 9 words and 5 answers"):
        model.test_step(raw_data(other))


@pytest.mark.parametrize('channels', [1, 4])
@pytest.mark.parametrize('swapped', [True, False])
def test_raw_images_of_other_channels_are_refused(channels, swapped):
    """Before the preprocessor drops a fourth channel, or makes three of one."""
    model = build(data_preprocessor=dict(PIXELS, bgr_to_rgb=swapped))
    with pytest.raises(ValueError, match=rf'is 3, but the images have \[{channels}\] channels'):
        model.test_step(raw_data(channels=channels))


def test_encoders_of_other_channels():
    """Four means for four channels; no channel is red or blue there."""
    vit = dict(type='mmpretrain.VisionTransformer', arch=ARCH, img_size=16, patch_size=8, out_type='raw', in_channels=4)
    pixels = dict(type='mmpl.VQAPreprocessor', mean=[10.0, 20.0, 30.0, 40.0], std=[2.0] * 4)
    data = raw_data(channels=4)
    seen = build(backbone=vit, data_preprocessor=pixels).data_preprocessor(data)['inputs']['image']
    torch.testing.assert_close(seen[:, 3], (data['inputs']['image'][:, 3].float() - 40) / 2)
    with pytest.raises(ValueError, match='bgr_to_rgb` must be False with `backbone.in_channels` 4'):
        build(backbone=vit, data_preprocessor=dict(pixels, bgr_to_rgb=True))
    with pytest.raises(ValueError, match='for pixels from 0 to 1'):
        build(data_preprocessor=dict(PIXELS, mean=[0.5] * 3, std=[0.2] * 3)).test_step(raw_data())


@pytest.mark.parametrize('field', ['frozen', 'blind'])
def test_weights_of_another_form_are_refused(field):
    """The keys are the same, but the layers behind would see tokens that are standardised otherwise, or none."""
    vit = dict(type='mmpretrain.VisionTransformer', arch=ARCH, img_size=16, patch_size=8, out_type='raw')
    fields = dict(frozen=dict(backbone=dict(vit, frozen_stages=2)), blind=dict(blind=True))[field]
    trained = build(**fields).state_dict()
    build(**fields).load_state_dict(trained)
    with pytest.raises(CheckpointMismatchError, match=f'trained with .*{field}=True.*, but this .*{field}=False'):
        build().load_state_dict(trained)


def test_refuses_inputs():
    model, inputs = build(), batch()
    with pytest.raises(ValueError, match='`max_length` is 6, but the questions have 8 numbers'):
        model(dict(inputs, question=torch.ones(4, 8, dtype=torch.long)))
    with pytest.raises(ValueError, match='`ann_file` of the data set is empty'):
        model(dict(image=inputs['image'], question=inputs['question']), mode='loss')
    with pytest.raises(ValueError, match=r'is 3, but the images have \[4\] channels'):
        model(dict(inputs, image=torch.randn(4, 4, 16, 16)))
