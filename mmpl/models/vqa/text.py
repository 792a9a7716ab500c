"""What reads a question: a small transformer over words, or BERT.

Shape legend: B questions, L words, D width of text and fusion.
"""

import json
from typing import Any

import torch
from torch import Tensor, nn

from mmpl.checkpoints.fit import CheckpointMismatchError
from mmpl.utils.bert import expanded, first_line, read_tokenizer, transformers

from .blocks import Block

_ARCHITECTURE = (  # of a BERT's config.json: what decides on its features beside its weights
    'hidden_size',
    'num_hidden_layers',
    'num_attention_heads',
    'intermediate_size',
    'hidden_act',
    'layer_norm_eps',
)


class WordText(nn.Module):
    """Embedded words and a few transformer blocks, from random weights.

    Args:
        num_words: How many numbers there are.
        max_length: L.
        num_layers: Blocks.
        block: ``dims``, ``num_heads``, ``mlp_ratio`` and ``drop_rate`` of a :class:`Block`.
    """

    def __init__(self, num_words: int, max_length: int, num_layers: int, block: tuple[int, int, float, float]) -> None:
        super().__init__()
        self.words = nn.Embedding(num_words, block[0])
        self.places = nn.Embedding(max_length, block[0])
        self.blocks = nn.ModuleList(Block(*block) for _ in range(num_layers))
        self.norm = nn.LayerNorm(block[0])

    def forward(self, question: Tensor, mask: Tensor) -> Tensor:
        """Words in their context, (B, L, D), of numbers (B, L); the mask is False behind the end."""
        text = self.words(question) + self.places.weight[: question.shape[1]]
        for block in self.blocks:
            text = block(text, mask)
        return self.norm(text)


class BertText(nn.Module):
    """A pre-trained BERT of transformers, and a linear layer to D, as METER has (Dou et al., CVPR 2022, section 3.1).

    Checkpoints hold its ``config.json`` as well: of another number of attention heads every tensor would fit.

    Args:
        path: Its folder, or its name on the Hugging Face Hub.
        vocabulary: With the same tokenizer.
        max_length: L.
        dims: D.

    Raises:
        ImportError: transformers is not installed.
        ValueError: The weights cannot be read, lack something, or are of another model or tokenizer.
        CheckpointMismatchError: When weights are loaded that were trained from another architecture.
    """

    def __init__(self, path: str, vocabulary: Any, max_length: int, dims: int) -> None:
        super().__init__()
        config = self._config(path)
        if vocabulary.tokenizer != read_tokenizer(path, 'bert'):
            has = 'numbers of words' if vocabulary.tokenizer is None else 'numbers of another tokenizer'
            raise ValueError(f'`bert` {path!r} does not know what `vocabulary` gives, {has}: set its `tokenizer` equal')
        if vocabulary.num_words > config.vocab_size:
            raise ValueError(
                f'`bert` {path!r} has {config.vocab_size} embeddings, but its tokenizer {vocabulary.num_words} numbers'
            )
        if max_length > config.max_position_embeddings:
            raise ValueError(
                f'`max_length` must be at most {config.max_position_embeddings}, the places of `bert` {path!r}, but '
                f'got {max_length}'
            )
        try:
            self.bert, found = transformers().BertModel.from_pretrained(
                expanded(path), add_pooling_layer=False, output_loading_info=True, ignore_mismatched_sizes=True
            )
        except Exception as error:  # of damaged files nearly anything
            raise ValueError(f'`bert` {path!r}: its weights cannot be read: {first_line(error)}') from error
        lacking = sorted(map(str, [*found['missing_keys'], *found.get('mismatched_keys', [])]))
        if lacking:
            raise ValueError(f'`bert` {path!r}: its weights lack {lacking}, or have other shapes than config.json says')
        self.bert.float()  # some files are of half precision
        about = json.dumps({name: getattr(config, name) for name in _ARCHITECTURE}, sort_keys=True).encode()
        self.register_buffer('architecture', torch.tensor(list(about), dtype=torch.uint8))  # of the checkpoint
        self.project = nn.Linear(config.hidden_size, dims)

    @staticmethod
    def _config(path: str) -> Any:
        try:
            config = transformers().AutoConfig.from_pretrained(expanded(path))
        except Exception as error:  # of damaged files nearly anything
            raise ValueError(
                f'`bert` must be the folder or the name of a BERT, but {path!r} is not: {first_line(error)}'
            ) from error
        if config.model_type != 'bert' or config.is_decoder:
            kind = 'decoder' if config.model_type == 'bert' else config.model_type
            raise ValueError(f"`bert` must be of model type 'bert', an encoder, but {path!r} is a {kind!r}")
        return config

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any, **kwargs: Any) -> None:
        found = state_dict.get(f'{prefix}architecture')
        if found is not None and not torch.equal(found.cpu(), self.architecture.cpu()):
            other, own = (json.loads(bytes(text.tolist())) for text in (found, self.architecture))
            names = [name for name in own if other.get(name) != own[name]]
            theirs, ours = (', '.join(f'{name} {part.get(name)}' for name in names) for part in (other, own))
            raise CheckpointMismatchError(f'the checkpoint was trained with a BERT of {theirs}, but `bert` has {ours}')
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def forward(self, question: Tensor, mask: Tensor) -> Tensor:
        """Word pieces in their context, (B, L, D), of numbers (B, L); the mask is False behind the end."""
        read = self.bert(input_ids=question.long(), attention_mask=mask.to(torch.long))
        return self.project(read.last_hidden_state)
