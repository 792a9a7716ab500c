"""What the tests of visual question answering share: tiny files in the official format, a tiny BERT."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ANSWERS = {  # question_id -> image_id, question, type, ten answers
    9000: (9, 'Is the cat on the mat?', 'yes/no', ['yes'] * 7 + ['no'] * 3),
    9001: (9, "What is the cat's colour?", 'other', ['Black.'] * 4 + ['dark'] * 3 + ['grey', 'brown', 'the black']),
    25000: (25, 'How many dogs, and how many cats?', 'number', ['two'] * 2 + ['2'] + ['3'] * 7),
    25001: (25, 'Is this a dog?', 'yes/no', ['no'] * 10),
}
QUESTIONS = 'v2_OpenEnded_mscoco_{}_questions.json'
ANNOTATIONS = 'v2_mscoco_{}_annotations.json'


def write_vqa(root: Path, splits: tuple[str, ...] = ('train2014', 'val2014'), side: int = 48) -> Path:
    """Two images with two questions each, in the folders and files that a download of VQAv2 has."""
    rng = np.random.default_rng(0)
    for split in splits:
        (root / split).mkdir(parents=True, exist_ok=True)
        for image_id in {image for image, *_ in ANSWERS.values()}:
            pixels = rng.integers(0, 255, (side, side + 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / split / f'COCO_{split}_{image_id:012d}.jpg')
        questions, annotations = [], []
        for question_id, (image_id, question, kind, answers) in ANSWERS.items():
            ids = dict(image_id=image_id, question_id=question_id)
            questions.append(dict(ids, question=question))
            given = [dict(answer=a, answer_confidence='yes', answer_id=i + 1) for i, a in enumerate(answers)]
            most = max(answers, key=answers.count)
            annotations.append(
                dict(ids, question_type='', answer_type=kind, multiple_choice_answer=most, answers=given)
            )
        (root / QUESTIONS.format(split)).write_text(json.dumps(dict(questions=questions)))
        (root / ANNOTATIONS.format(split)).write_text(json.dumps(dict(annotations=annotations)))
    return root


def write_bert(
    folder: Path, words: str = "is the cat on mat this dog what ##s how many and ' s ? , cats a", **kwargs
) -> Path:
    """A BERT with random weights and a tokenizer of a few pieces, as ``save_pretrained`` of transformers writes it."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(parents=True)
    (folder / 'vocab.txt').write_text('\n'.join(['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *words.split()]))
    tokenizer = BertTokenizerFast(str(folder / 'vocab.txt'), **kwargs)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(5)
    sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=50, **sizes)).save_pretrained(folder)
    return folder
