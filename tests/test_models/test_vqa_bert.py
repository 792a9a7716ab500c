"""BERT as the text encoder of visual question answering, against transformers itself."""

import json
import pickle

import numpy as np
import pytest
import torch

from mmpl.checkpoints.fit import CheckpointMismatchError
from mmpl.datasets.vqa import Vocabulary, vqa_vocabulary
from mmpl.datasets.vqa.vocabulary import PAD
from mmpl.registry import MODELS
from mmpl.utils.bert import read_tokenizer
from tests.vqa import ANNOTATIONS, QUESTIONS, write_bert, write_vqa

transformers = pytest.importorskip('transformers')

ARCH = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
ASKED = ['Is the cat on the mat?', "What is the dog's zebra?", 'Cats', 'how many cats and dogs, and how many cats?']


@pytest.fixture(scope='module')
def bert(tmp_path_factory):
    return write_bert(tmp_path_factory.mktemp('hub') / 'bert')


def vocabulary_of(folder, answers=('yes', 'no', 'red')):
    return Vocabulary((), answers, read_tokenizer(str(folder), 'tokenizer'))


def build(bert, vocabulary=None, **kwargs):
    torch.manual_seed(0)
    fields = dict(
        backbone=dict(type='mmpretrain.VisionTransformer', arch=ARCH, img_size=16, patch_size=8, out_type='raw'),
        vocabulary=vocabulary or vocabulary_of(bert),
        dims=12,
        num_heads=3,
        bert=bert and str(bert),
        text_layers=None,
        fusion_layers=1,
        max_length=12,
    )
    model = MODELS.build(dict(type='mmpl.VQAClassifier', **(fields | kwargs)))
    model.init_weights()
    return model.eval()


@pytest.mark.parametrize('length', [12, 6, 2])
def test_numbers_are_those_of_the_tokenizer(bert, length):
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert)
    want = tokenizer(ASKED, padding='max_length', truncation=True, max_length=length)['input_ids']
    got = [vocabulary_of(bert).encode(question, length).tolist() for question in ASKED]
    assert got == want
    assert vocabulary_of(bert).num_words == len(tokenizer)
    with pytest.raises(ValueError, match='`max_length` must be 2 or more with a `tokenizer`, but got 1'):
        vocabulary_of(bert).encode('cats', 1)


def test_words_in_their_context_are_those_of_bert(bert):
    """Each question alone, without padding, through transformers' own model; weights are left as they were loaded."""
    model, vocabulary = build(bert), vocabulary_of(bert)
    alone = transformers.AutoModel.from_pretrained(bert).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert)
    numbers = torch.from_numpy(np.stack([vocabulary.encode(question, 12) for question in ASKED[:3]]))
    got = model.question(numbers, numbers != 0)
    for row, question in zip(got, ASKED[:3], strict=True):
        hidden = alone(**tokenizer(question, return_tensors='pt')).last_hidden_state[0]
        torch.testing.assert_close(row[: len(hidden)], model.question.project(hidden), rtol=1e-4, atol=1e-5)


def test_all_weights_are_trained(bert):
    """But for BERT's token types of a second text, no parameter stays without a gradient."""
    model, vocabulary = build(bert).train(), vocabulary_of(bert)
    question = torch.from_numpy(np.stack([vocabulary.encode(text, 12) for text in ASKED]))
    ids, scores = torch.tensor([[0, 1] + [0] * 8] * 4), torch.tensor([[1.0, 0.3] + [0.0] * 8] * 4)
    inputs = dict(image=torch.randn(4, 3, 16, 16), question=question, answer_ids=ids, answer_scores=scores)
    model(inputs, mode='loss')['loss'].backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    assert model.question.bert.embeddings.word_embeddings.weight.grad.abs().sum() > 0


def test_checkpoints_keep_the_tokenizer(bert, tmp_path):
    model = build(bert)
    build(bert).load_state_dict(model.state_dict())
    kept = Vocabulary.from_json(bytes(model.state_dict()['vocabulary_text'].tolist()).decode())
    assert (
        kept == model.vocabulary
        and kept.encode(ASKED[0], 12).tolist() == model.vocabulary.encode(ASKED[0], 12).tolist()
    )
    other = write_bert(tmp_path / 'other', words="is the cat on mat this dog what ##s how many and s ' ? , cats a")
    with pytest.raises(CheckpointMismatchError, match='another vocabulary.*; tokenizer differ'):
        build(other).load_state_dict(model.state_dict())


def test_refuses_what_does_not_fit(bert, tmp_path):
    cased = write_bert(tmp_path / 'cased', do_lower_case=False)
    words = Vocabulary(tuple('abc'), ('yes', 'no'))
    with pytest.raises(ValueError, match='does not know what `vocabulary` gives, numbers of another tokenizer'):
        build(bert, vocabulary=vocabulary_of(cased))
    with pytest.raises(ValueError, match='does not know what `vocabulary` gives, numbers of words'):
        build(bert, vocabulary=words)
    with pytest.raises(ValueError, match='`max_length` must be at most 50, .* but got 51'):
        build(bert, max_length=51)
    with pytest.raises(ValueError, match='one of `text_layers` and `bert` must be given, .* but got 2 and '):
        build(bert, text_layers=2)
    with pytest.raises(ValueError, match='one of `text_layers` and `bert` must be given, .* but got None and None'):
        build(None, vocabulary=vocabulary_of(bert))
    with pytest.raises(ValueError, match="`bert` must be the folder or the name of a BERT, but '.*nothing' is not"):
        build(tmp_path / 'nothing', vocabulary=vocabulary_of(bert))


def test_refuses_another_model(bert, tmp_path):
    """transformers itself would load its weights into nothing, and start at random with a warning."""
    other = write_bert(tmp_path / 'distil')
    config = json.loads((other / 'config.json').read_text())
    (other / 'config.json').write_text(json.dumps(config | dict(model_type='distilbert')))
    with pytest.raises(ValueError, match="`bert` must be of model type 'bert', an encoder, but '.*' is a 'distilbert'"):
        build(other)
    (other / 'config.json').write_text(json.dumps(config | dict(is_decoder=True)))
    with pytest.raises(ValueError, match="an encoder, but '.*' is a 'decoder'"):
        build(other)


def test_refuses_weights_that_lack_something(bert, tmp_path):
    other = write_bert(tmp_path / 'broken')
    model = transformers.BertModel.from_pretrained(other)
    state = {name: value for name, value in model.state_dict().items() if not name.startswith('encoder.layer.1.')}
    model.save_pretrained(other, state_dict=state)
    with pytest.raises(ValueError, match=r"its weights lack \['encoder.layer.1"):
        build(other)


def test_refuses_checkpoints_of_another_bert(bert, tmp_path):
    """Of other attention heads, where every key fits, and of more layers, which the weights of fewer leave out."""
    state, config = build(bert).state_dict(), json.loads((bert / 'config.json').read_text())
    other = write_bert(tmp_path / 'other')
    (other / 'config.json').write_text(json.dumps(config | dict(num_attention_heads=4)))
    with pytest.raises(CheckpointMismatchError, match='BERT of num_attention_heads 2, but `bert` has .* 4'):
        build(other).load_state_dict(state)
    (other / 'config.json').write_text(json.dumps(config | dict(num_hidden_layers=1)))
    with pytest.raises(CheckpointMismatchError, match='more layers than this model: question.bert.encoder.layer.1'):
        build(other).load_state_dict(state, strict=False)
    with pytest.raises(CheckpointMismatchError, match='more layers than this model: fusion.layers.1'):
        build(bert).load_state_dict(build(bert, fusion_layers=2).state_dict(), strict=False)


@pytest.mark.parametrize(
    'file, message',
    [
        ('model.safetensors', '`bert` .*: its weights cannot be read'),
        ('config.json', '`bert` must be the folder or the name of a BERT'),
        ('tokenizer.json', '`bert` .* has no tokenizer that can be read'),
    ],
)
def test_refuses_damaged_folders(bert, tmp_path, file, message):
    """Such as those of a clone without git-lfs."""
    other = write_bert(tmp_path / 'other')
    (other / file).write_text('version https://git-lfs.github.com/spec/v1')
    with pytest.raises(ValueError, match=message):
        build(other, vocabulary=vocabulary_of(bert))
    config = json.loads((bert / 'config.json').read_text())
    narrow = write_bert(tmp_path / 'narrow')
    (narrow / 'config.json').write_text(json.dumps(config | dict(intermediate_size=8)))
    with pytest.raises(ValueError, match=r'its weights lack .*intermediate.*, or have other shapes than config.json'):
        build(narrow)


def test_refuses_an_init_cfg_of_the_whole(bert):
    with pytest.raises(ValueError, match='`init_cfg` must be None with `bert`'):
        build(bert, init_cfg=dict(type='TruncNormal', layer='Linear'))


def test_questions_of_any_content(bert, tmp_path):
    """Start and end are there also if no file says so; names of special tokens are text; half a character is none."""
    vocabulary = vocabulary_of(bert)
    for question in ('', 'is [PAD] [SEP] cat', 'the \ud83d cat', 'Ⅷ 猫 ﬁ'):
        ids = vocabulary.encode(question, 20).tolist()
        inner = ids[1 : ids.index(3)]
        assert ids[0] == 2 and not set(inner) & {PAD, 2, 3} and set(ids[len(inner) + 2 :]) == {PAD}
    other = write_bert(tmp_path / 'other')
    content = json.loads((other / 'tokenizer.json').read_text())
    (other / 'tokenizer.json').write_text(json.dumps(content | dict(post_processor=None)))
    assert vocabulary_of(other) == vocabulary


def test_a_model_can_be_pickled(bert):
    model = build(bert)
    again = pickle.loads(pickle.dumps(model))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_refuses_tokenizers_of_other_padding(tmp_path):
    folder = tmp_path / 'roberta'
    folder.mkdir()
    words = ['<s>', '<pad>', '</s>', '<unk>', '<mask>', 'a', 'b']
    (folder / 'vocab.json').write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / 'merges.txt').write_text('#version: 0.2\n')
    transformers.RobertaTokenizerFast(str(folder / 'vocab.json'), str(folder / 'merges.txt')).save_pretrained(folder)
    with pytest.raises(ValueError, match='`tokenizer` must have a tokenizer of BERT, .* has Roberta.* padding 1'):
        read_tokenizer(str(folder), 'tokenizer')


def test_vocabulary_of_official_files(bert, tmp_path):
    """The tokenizer is kept with the answers, and needed no more; a changed one makes another vocabulary."""
    root = write_vqa(tmp_path / 'vqav2')
    fields = dict(
        data_root=str(root),
        question_files=[QUESTIONS.format('train2014')],
        ann_files=[ANNOTATIONS.format('train2014')],
        min_count=1,
    )
    mine = write_bert(tmp_path / 'mine')
    made = vqa_vocabulary(**fields, tokenizer=str(mine))
    assert made.encode(ASKED[0], 12).tolist() == vocabulary_of(bert).encode(ASKED[0], 12).tolist()
    assert made.answers == vqa_vocabulary(**fields).answers and made.words == ()
    for path in mine.iterdir():
        path.unlink()
    assert vqa_vocabulary(**fields, tokenizer=str(mine)) == made
    for path in root.glob('v2_*.json'):
        path.rename(path.with_suffix('.away'))
    assert vqa_vocabulary(**fields, tokenizer=str(mine)) == made
    for path in root.glob('v2_*.away'):
        path.rename(path.with_suffix('.json'))
    mine.rmdir()
    write_bert(mine, words='the mat cat on is')
    changed = vqa_vocabulary(**fields, tokenizer=str(mine))
    assert changed.digest != made.digest and changed.num_words == 10
    with pytest.raises(ValueError, match="`vocabulary.tokenizer` '.*nothing' has no tokenizer that can be read"):
        vqa_vocabulary(**fields, tokenizer=str(tmp_path / 'nothing'))
