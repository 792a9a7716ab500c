"""What reads a question: a small transformer over words, or BERT.

Shape legend: B questions, L words, D width of text and fusion.
"""

from typing import Any

import torch
from torch import Tensor, nn

from mmpl.datasets.vqa import Vocabulary
from mmpl.datasets.vqa.pieces import expanded, read_tokenizer, same_pieces, transformers

from .blocks import Block


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

    Its own ``init_weights`` is not reached from the model's, so that what was loaded stays.

    Args:
        path: Its folder, or its name on the Hugging Face Hub.
        vocabulary: With the same tokenizer.
        max_length: L.
        dims: D.

    Raises:
        ImportError: transformers is not installed.
        ValueError: The weights cannot be read, lack something, or are of another model or tokenizer.
    """

    def __init__(self, path: str, vocabulary: Vocabulary, max_length: int, dims: int) -> None:
        super().__init__()
        config = self._config(path)
        if vocabulary.tokenizer is None or not same_pieces(vocabulary.tokenizer, read_tokenizer(path, 'bert')):
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
        self.bert, found = transformers().BertModel.from_pretrained(
            expanded(path), add_pooling_layer=False, output_loading_info=True
        )
        if found['missing_keys'] or found.get('mismatched_keys'):
            lacking = sorted(map(str, [*found['missing_keys'], *found.get('mismatched_keys', [])]))
            raise ValueError(f'`bert` {path!r}: its weights lack {lacking}, which would stay random')
        self.bert.float()  # some files are of half precision
        self.project = nn.Linear(config.hidden_size, dims)

    @staticmethod
    def _config(path: str) -> Any:
        try:
            config = transformers().AutoConfig.from_pretrained(expanded(path))
        except (OSError, ValueError) as error:
            text = str(error).strip().split('\n')[0]
            raise ValueError(f'`bert` must be the folder or the name of a BERT, but {path!r} is not: {text}') from error
        if config.model_type != 'bert':
            raise ValueError(f"`bert` must be of model type 'bert', but {path!r} is a {config.model_type!r}")
        return config

    def forward(self, question: Tensor, mask: Tensor) -> Tensor:
        """Word pieces in their context, (B, L, D), of numbers (B, L); the mask is False behind the end."""
        read = self.bert(input_ids=question.long(), attention_mask=mask.to(torch.long))
        return self.project(read.last_hidden_state)
