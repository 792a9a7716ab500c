"""Visual question answering with a pre-trained encoder.

Shape legend: B questions, L words, N image tokens, C width of the encoder, D width of text and fusion, A answers.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import Tensor, nn

from mmpl.checkpoints.fit import CheckpointMismatchError
from mmpl.models.preprocessor import BandPreprocessor, check_channels, check_scale, fit_preprocessor
from mmpl.models.standardise import RunningStandardiser
from mmpl.registry import DATASETS, MODELS
from mmpl.utils.bert import PAD
from mmpl.utils.fields import Count, FieldTypeError, Part, Positive, Share, checked

from .blocks import CoAttention
from .text import BertText, WordText

_STD = 0.02  # of embeddings at the start, as usual for transformers


@MODELS.register_module()
class VQAPreprocessor(BandPreprocessor):
    """Normalises the images of :class:`mmpl.datasets.transforms.pack_vqa.PackVQA`; arguments as its base class'."""

    def forward(self, data: dict, training: bool = False) -> dict:
        """Move everything to the device of the model, and normalise ``inputs['image']``."""
        inputs = self.cast_data(dict(data['inputs']))
        done = super().forward(dict(inputs=inputs['image'], data_samples=data.get('data_samples')), training)
        return dict(inputs={**inputs, 'image': done['inputs']}, data_samples=done['data_samples'])


@MODELS.register_module()
class VQAClassifier(BaseModel):
    """Chooses the answer to a question about an image.

    The encoder's tokens and those of a small text transformer pass through layers in which they look at each other
    (METER, Dou et al., CVPR 2022, section 3); the first token of each, pooled, give a score to each answer. The loss is
    the binary cross-entropy with soft scores, its mean over batch and answers times the number of answers (ibid.).
    Tokens of a frozen encoder are standardised channel by channel, as in MAE's linear probing (He et al., CVPR 2022,
    appendix A.1): how widely features spread says nothing of what they hold.

    Args:
        backbone: Encoder, ``dict(type='mmpretrain.VisionTransformer', out_type='raw', init_cfg=...)``; its
            ``frozen_stages`` freezes it.
        vocabulary: Words and answers, ``dict(type='mmpl.VQAVocabulary', ...)``; the data sets need the same.
        dims: D.
        num_heads: Attention heads of text and fusion, a divisor of D.
        text_layers: Transformer blocks over the words before these meet the image; None with ``bert``.
        bert: A pre-trained BERT that reads the words instead: its folder, or its name on the Hugging Face Hub. The
            vocabulary's ``tokenizer`` needs to be the same; the package transformers is needed. It is trained with the
            rest.
        fusion_layers: Layers of co-attention.
        mlp_ratio: Hidden width of an MLP over D.
        drop_rate: Dropout of text and fusion; BERT has its own.
        max_length: L, at least that of the data sets.
        blind: Whether the image is not looked at: the control that answers from the question alone. In its place stands
            one token of zeros, and all else is the same.
        data_preprocessor: ``dict(type='mmpl.VQAPreprocessor', mean=..., std=..., bgr_to_rgb=True)``.
        init_cfg: Initialisation.

    Raises:
        ValueError: When fields do not fit each other, such as neither or both of ``text_layers`` and ``bert``.
        CheckpointMismatchError: When weights are loaded that were trained with another vocabulary, with more layers, or
            in another form: frozen or not, blind or not.
    """

    @checked()
    def __init__(
        self,
        backbone: Part,
        vocabulary: Any,
        dims: Count = 768,
        num_heads: Count = 12,
        text_layers: Count | None = 6,
        bert: str | None = None,
        fusion_layers: Count = 6,
        mlp_ratio: Positive = 4,
        drop_rate: Share = 0.0,
        max_length: Count = 50,
        blind: bool = False,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        if dims % num_heads:
            raise ValueError(f'`dims` must be a multiple of `num_heads` {num_heads}, but got {dims}')
        if (text_layers is None) == (bert is None):
            raise ValueError(
                f'one of `text_layers` and `bert` must be given, the other None, but got {text_layers} and {bert!r}'
            )
        if bert is not None and init_cfg is not None:
            raise ValueError(f'`init_cfg` must be None with `bert`, whose weights it would replace, but got {init_cfg}')
        encoder = MODELS.build(dict(backbone))
        pixels = dict(type='mmpl.VQAPreprocessor') | dict(data_preprocessor or {})
        self.in_channels = encoder.patch_embed.projection.in_channels
        super().__init__(fit_preprocessor(pixels, self.in_channels), init_cfg)
        self._std: Any = pixels.get('std')
        self.data_preprocessor.register_forward_pre_hook(self._check_raw)
        self.vocabulary = DATASETS.build(dict(vocabulary)) if isinstance(vocabulary, Mapping) else vocabulary
        if not hasattr(self.vocabulary, 'num_answers'):
            raise FieldTypeError(
                f"`vocabulary` must be a dict such as dict(type='mmpl.VQAVocabulary', ...), but got {vocabulary!r}"
            )
        text = self.vocabulary.to_json().encode()
        self.register_buffer('vocabulary_text', torch.tensor(list(text), dtype=torch.uint8))  # of the checkpoint
        self.max_length = max_length
        self.blind = blind
        self.backbone = encoder
        out_type = getattr(self.backbone, 'out_type', 'raw')
        if out_type != 'raw':
            raise ValueError(f"`backbone.out_type` must be 'raw', all tokens, but got {out_type!r}")
        if blind:
            self.backbone.requires_grad_(False)
        self.frozen = not any(parameter.requires_grad for parameter in self.backbone.parameters())
        self.register_buffer('form', torch.tensor([self.frozen, self.blind], dtype=torch.uint8))  # of the checkpoint
        block = (dims, num_heads, mlp_ratio, drop_rate)
        self.question: nn.Module
        if bert is not None:
            self.question = BertText(bert, self.vocabulary, max_length, dims)
        elif text_layers is not None:
            self.question = WordText(self.vocabulary.num_words, max_length, text_layers, block)
        self.fusion = nn.ModuleDict(
            dict(
                standardise=RunningStandardiser(self.backbone.embed_dims),
                project=nn.Linear(self.backbone.embed_dims, dims),
                kinds=nn.Embedding(2, dims),  # marks tokens as text or image
                layers=nn.ModuleList(CoAttention(*block) for _ in range(fusion_layers)),
                text_norm=nn.LayerNorm(dims),
                image_norm=nn.LayerNorm(dims),
                text_pool=nn.Linear(dims, dims),
                image_pool=nn.Linear(dims, dims),
            )
        )
        if blind:
            self.fusion.project.requires_grad_(False)
        self.head = nn.Sequential(
            nn.Linear(2 * dims, 2 * dims),
            nn.LayerNorm(2 * dims),
            nn.GELU(),
            nn.Linear(2 * dims, self.vocabulary.num_answers),
        )
        for module in (*self.question.children(), *self.fusion.children()):
            if isinstance(module, nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=_STD)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any, **kwargs: Any) -> None:
        found = state_dict.get(f'{prefix}vocabulary_text')
        if found is not None and not torch.equal(found.cpu(), self.vocabulary_text.cpu()):
            other = type(self.vocabulary).from_json(bytes(found.tolist()).decode())
            parts = ('words', 'tokenizer', 'answers')
            others = ' and '.join(part for part in parts if getattr(other, part) != getattr(self.vocabulary, part))
            raise CheckpointMismatchError(
                f'the checkpoint was trained with another vocabulary, of {other.num_words} words and '
                f'{other.num_answers} answers, than `vocabulary` makes, of {self.vocabulary.num_words} and '
                f'{self.vocabulary.num_answers}: the same training files, counts and tokenizer are needed; {others} '
                'differ'
            )
        form = state_dict.get(f'{prefix}form')
        if form is not None and not torch.equal(form.cpu(), self.form.cpu()):
            frozen, blind = map(bool, form.tolist())
            raise CheckpointMismatchError(
                f'the checkpoint was trained with frozen={frozen} and blind={blind}, but this model has '
                f'frozen={self.frozen} and blind={self.blind}, so that its layers would see other tokens than '
                'they were trained with: take the config of its training (`backbone.frozen_stages`, `blind`)'
            )
        own = self.state_dict().keys()
        layers = tuple(f'{prefix}{name}.' for name in ('question', 'fusion', 'head'))
        if left := [key for key in state_dict if key.startswith(layers) and key.removeprefix(prefix) not in own]:
            raise CheckpointMismatchError(
                f'the checkpoint has more layers than this model: {left[0]} and {len(left) - 1} other keys would be '
                'left out; take the config of its training (`text_layers` or `bert`, `fusion_layers`)'
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _check_raw(self, _: nn.Module, args: tuple) -> None:
        """Refuse what a loader gives if it is made for another model; before anything is changed or moved."""
        inputs: Mapping[str, Tensor] = args[0]['inputs']
        check_channels(self.in_channels, inputs['image'])
        check_scale(self._std, inputs['image'])
        given = inputs.get('vocabulary')
        if given is not None and set(given.flatten().tolist()) != {self.vocabulary.digest}:
            raise ValueError(
                'the numbers of words and answers that the data set gives are of another `vocabulary` than the '
                f"model's, of {self.vocabulary.num_words} words and {self.vocabulary.num_answers} answers: make "
                '`model.vocabulary` and that of each data set equal'
            )

    def train(self, mode: bool = True) -> 'VQAClassifier':
        """A frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def logits(self, image: Tensor, question: Tensor) -> Tensor:
        """Score the answers: normalised images (B, C, H, W) and numbers of words (B, L) to (B, A)."""
        mask = question != PAD
        if question.shape[1] > self.max_length:
            raise ValueError(
                f'`max_length` is {self.max_length}, but the questions have {question.shape[1]} numbers: make it equal '
                'to `max_length` of the data set'
            )
        text = self.question(question, mask)
        tokens = self._encode_image(image)
        words, patches = text + self.fusion.kinds.weight[0], tokens + self.fusion.kinds.weight[1]
        for layer in self.fusion.layers:
            words, patches = layer(words, patches, mask)
        pooled = (
            self.fusion.text_pool(self.fusion.text_norm(words[:, 0])),
            self.fusion.image_pool(self.fusion.image_norm(patches[:, 0])),
        )
        return self.head(torch.cat(pooled, dim=1).tanh())

    def _encode_image(self, image: Tensor) -> Tensor:
        """The encoder's tokens, (B, N, D); for the blind control one of zeros."""
        if self.blind:
            return self.fusion.project.weight.new_zeros(image.shape[0], 1, self.fusion.project.out_features)
        tokens = self.backbone(image)[-1]
        return self.fusion.project(self.fusion.standardise(tokens) if self.frozen else tokens)

    def targets(self, answer_ids: Tensor, answer_scores: Tensor) -> Tensor:
        """Soft scores of all answers, (B, A), from those of the given ones, (B, 10)."""
        zeros = answer_scores.new_zeros(answer_ids.shape[0], self.vocabulary.num_answers)
        return zeros.scatter_add_(1, answer_ids, answer_scores)

    def forward(
        self,
        inputs: dict[str, Tensor],
        data_samples: list | None = None,
        mode: Literal['tensor', 'loss', 'predict'] = 'tensor',
    ) -> Any:
        """Logits, losses, or the samples with their answers.

        Args:
            inputs: ``image`` (B, C, H, W), ``question`` (B, L), and for the loss ``answer_ids`` and ``answer_scores``
                (B, 10).
            data_samples: One a question, to write answers into.
            mode: ``'tensor'`` gives logits (B, A), ``'loss'`` a dict with ``loss``, ``'predict'`` the samples with
                ``pred_answer`` and ``pred_score``, its probability.
        """
        check_channels(self.in_channels, inputs['image'])
        logits = self.logits(inputs['image'], inputs['question'])
        if mode == 'tensor':
            return logits
        if mode == 'loss':
            if 'answer_ids' not in inputs:
                raise ValueError('questions without answers cannot be trained on: `ann_file` of the data set is empty')
            targets = self.targets(inputs['answer_ids'], inputs['answer_scores'])
            loss = F.binary_cross_entropy_with_logits(logits.float(), targets.float())
            return dict(loss=loss * self.vocabulary.num_answers)
        if mode != 'predict':
            raise ValueError(f"`mode` must be 'tensor', 'loss' or 'predict', but got {mode!r}")
        best = logits.float().sigmoid().max(dim=1)
        for sample, number, score in zip(data_samples or [], best.indices.tolist(), best.values.tolist(), strict=True):
            sample.set_field(self.vocabulary.answers[number], 'pred_answer', field_type='metainfo')
            sample.set_field(score, 'pred_score', field_type='metainfo')
        return data_samples
