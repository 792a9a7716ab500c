"""Answers as the official VQA evaluation compares them: their text, and what an answer scores.

Source: the evaluation page of visualqa.org and Antol et al., "VQA: Visual Question Answering" (ICCV 2015), section 5.
"""

import re
from collections import Counter
from collections.abc import Sequence

ANSWERS_PER_QUESTION = 10
"""In the official files each question was answered by ten people."""
ENOUGH = 3
"""An answer that this many of nine people gave is fully right."""

_NUMBERS = dict(
    none='0', zero='0', one='1', two='2', three='3', four='4', five='5', six='6', seven='7', eight='8', nine='9',
    ten='10',
)  # fmt: skip
_ARTICLES = {'a', 'an', 'the'}
_PERIOD = re.compile(r'\.(?!\d)')  # not that of a decimal number
_THOUSANDS = re.compile(r'\d,\d')
_PUNCTUATION = ';/[]"{}()=+\\_-<>@`,?!'  # apostrophes (girl's) and colons (2:50) stay


def _contractions() -> dict[str, str]:
    """Contractions that lack one apostrophe -> with it; those that the official table has, and no others."""
    shapes = {
        "n't": 'ai are ca could did does do had has have is might must need ought sha should was were wo would',
        "n't've": 'could had might should would',
        "'d": 'he how it someone something there they where who you',
        "'d've": "he it she somebody someone something there they we who y'all you",
        "'ll": "how it somebody someone something they what who why y'all you",
        "'re": 'there they what why you',
        "'s": 'he how somebody someone that there what when where who why',
        "'ve": 'could might must not should they we what where who would you',
    }
    full = [word + ending for ending, words in shapes.items() for word in words.split()]
    full += ["ma'am", "o'clock", "y'all", "'twas", "'ow's'at"]
    lacking = {
        whole[:place] + whole[place + 1 :]: whole for whole in full for place, sign in enumerate(whole) if sign == "'"
    }
    return lacking | {"somebody'd": 'somebodyd'}


_CONTRACTIONS = _contractions()


def as_written(text: str) -> str:
    """An answer in one line, without spaces around it."""
    return text.replace('\n', ' ').replace('\t', ' ').strip()


def normalise_answer(text: str) -> str:
    """The text by which answers are compared where people gave several.

    Lower case; no full stops but those of decimals; words of numbers as digits; no articles; contractions with their
    apostrophes, but for capitals ("I'm"), which the official table misses. Other punctuation is a space, but
    apostrophes and colons stay; nothing is in the place of a mark that somewhere in the text stands beside a space, nor
    of any where a comma stands between digits.

    Example:
        >>> normalise_answer('The two dogs, dont.')
        "2 dogs don't"
    """
    numbers = _THOUSANDS.search(text) is not None
    parted = text
    for mark in _PUNCTUATION:
        parted = parted.replace(mark, '' if numbers or f'{mark} ' in text or f' {mark}' in text else ' ')
    words = (_NUMBERS.get(word, word) for word in _PERIOD.sub('', parted).lower().split())
    return ' '.join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def leave_one_out(count: int, total: int = ANSWERS_PER_QUESTION) -> float:
    """Score of an answer that ``count`` of ``total`` people gave: min(1, matches / 3), averaged over who is left out.

    For ten people 0, 0.3, 0.6, 0.9, and 1 from four on.
    """
    if total < 2:
        return float(count > 0)
    with_one_less, with_all = min(1.0, max(count - 1, 0) / ENOUGH), min(1.0, count / ENOUGH)
    return (count * with_one_less + (total - count) * with_all) / total


def soft_scores(answers: Sequence[str]) -> dict[str, float]:
    """Each different answer of a question -> its score, the most frequent first."""
    return {answer: leave_one_out(n, len(answers)) for answer, n in Counter(answers).most_common()}
