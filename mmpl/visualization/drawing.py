"""What all drawings share: colours, theme, rows of images, and figures joined to one picture."""

import io
import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

# Ink in the light and the dark theme of the page.
INK = dict(ink=('#1f2328', '#e6e8eb'), soft=('#6a737d', '#9aa4af'), grid=('#e4e7eb', '#363c44'))
GOOD, BAD, ACCENT = '#009e73', '#d55e00', '#0072b2'  # readable in both
# Okabe and Ito's palette, which colour-blind readers can tell apart; the yellow is too pale for lines.
PALETTE = (ACCENT, BAD, GOOD, '#cc79a7', '#e69f00', '#56b4e9')
DPI = 150
_COARSE = 160  # pixels of an image's longer side below which its pixels are shown as they are
_LETTERS = 123  # of 1 pt in an inch, on average


def theme() -> AbstractContextManager[Any]:
    """Matplotlib settings of all figures: the light theme, on no ground."""
    ink, soft, grid = (INK[name][0] for name in ('ink', 'soft', 'grid'))
    return mpl.rc_context(
        {
            'font.family': 'sans-serif',
            'font.size': 9,
            'text.color': ink,
            'text.parse_math': False,  # dollar signs in names must not start a formula
            'axes.labelcolor': soft,
            'axes.edgecolor': grid,
            'axes.facecolor': 'none',
            'axes.spines.top': False,
            'axes.spines.right': False,
            'axes.grid': True,
            'axes.grid.axis': 'y',
            'axes.axisbelow': True,
            'axes.formatter.useoffset': False,
            'grid.color': grid,
            'xtick.color': soft,
            'ytick.color': soft,
            'xtick.major.size': 0,
            'ytick.major.size': 0,
            'legend.frameon': False,
            'legend.fontsize': 8,
            'figure.facecolor': 'none',
            'svg.fonttype': 'none',  # the reader's fonts know more letters than matplotlib's
            'svg.hashsalt': 'mmpl',
        }
    )


def draw_images(images: Sequence[tuple[np.ndarray, str, str]], width: float) -> Figure:
    """Images side by side.

    Args:
        images: Pixels (H, W, 3), the text below, and the colour of text and frame ('': no frame) of each.
        width: Of the figure, in inches.
    """
    gap = 0.07
    side = width / len(images) - gap
    height = side * max(pixels.shape[0] / pixels.shape[1] for pixels, _, _ in images)
    lines = max(text.count('\n') + bool(text) for _, text, _ in images)
    total = height + 0.07 + 0.14 * lines
    figure = Figure(figsize=(width, total))
    for index, (pixels, text, colour) in enumerate(images):
        left = index * (side + gap) + gap / 2
        box = (left / width, 1 - (height + 0.02) / total, side / width, height / total)
        axes = figure.add_axes(box, anchor='N', xticks=[], yticks=[])
        axes.imshow(pixels, interpolation='none' if max(pixels.shape[:2]) < _COARSE else 'antialiased')
        axes.grid(False)
        axes.spines[:].set(visible=bool(colour), color=colour or 'none', linewidth=2)
        axes.set_xlabel(text, color=colour or INK['soft'][0], fontsize=8, labelpad=3)
    return figure


def draw_text(text: str, width: float, size: float = 9, ink: str = 'soft', weight: str = 'normal') -> Image.Image:
    """A paragraph, its lines broken to a width in inches."""
    lines = textwrap.wrap(text, int(width * _LETTERS / size)) or ['']
    figure = Figure(figsize=(width, (len(lines) + 0.4) * size * 1.4 / 72))
    figure.text(0, 1, '\n'.join(lines), va='top', size=size, color=INK[ink][0], weight=weight, linespacing=1.3)
    return rasterise(figure)


def rasterise(figure: Figure) -> Image.Image:
    """A figure in pixels, on white."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=DPI, facecolor='white')
    return Image.open(buffer).convert('RGB')


def join(images: Sequence[Image.Image], horizontal: bool = False, gap: float = 0.0) -> Image.Image:
    """Images below or beside each other, from the top left, with a gap in inches."""
    space = round(gap * DPI)
    along, across = (0, 1) if horizontal else (1, 0)
    size = [0, 0]
    size[along] = sum(image.size[along] for image in images) + space * (len(images) - 1)
    size[across] = max(image.size[across] for image in images)
    joined = Image.new('RGB', (size[0], size[1]), 'white')
    at = [0, 0]
    for image in images:
        joined.paste(image, (at[0], at[1]))
        at[along] += image.size[along] + space
    return joined
