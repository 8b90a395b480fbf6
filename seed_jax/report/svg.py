"""What all figures share: colours, canvas, texts that fit, and SVG that a page can contain.

The colours are placeholders for the page's CSS variables, so that a figure reads well in light and in dark
mode.
"""

import contextlib
import dataclasses
import html
import io
import re
import unicodedata
import warnings
from collections.abc import Sequence

# Placeholders in matplotlib's output, replaced by the page's CSS variables.
INK, SOFT, FAINT, PAGE = "#010101", "#020203", "#020202", "#020204"
SERIES = ("#030301", "#030302", "#030303", "#030304", "#030305", "#030306")
CSS = {INK: "var(--ink)", SOFT: "var(--soft)", FAINT: "var(--faint)", PAGE: "var(--page)"}
CSS |= {colour: f"var(--series-{i})" for i, colour in enumerate(SERIES)}
SIZE = (4.8, 2.5)  # inches; about the width of a phone at 72 units an inch
FONT, LINE, MARGIN = 10.5, 14.5, 1  # points: size of the letters, distance of two lines, left edge
STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": FONT,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.formatter.useoffset": False,
}


@dataclasses.dataclass(frozen=True)
class Figure:
    """An `<svg>` element, which includes its alternative text, and the caption below it.

    Attributes:
      name: of its file; unique on a page.
    """

    svg: str
    name: str
    caption: str = ""


@contextlib.contextmanager
def canvas(name: str, height: float):
    """A figure as wide as all others and `height` points high, and the stream to save it to."""
    import matplotlib
    from matplotlib import figure as mpl

    with matplotlib.rc_context(STYLE | {"svg.hashsalt": name}), warnings.catch_warnings():
        # The browser chooses the font, and has the letters that matplotlib's own lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield mpl.Figure(figsize=(SIZE[0], height / 72)), io.StringIO()


def inline(svg: str, name: str, description: str) -> str:
    """Turn matplotlib's file into an element of a page: scalable, described, unique ids, colours from CSS."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    for placeholder, variable in CSS.items():
        svg = svg.replace(placeholder, variable)
    box = re.search(r'viewBox="[^"]*"', svg).group()
    opening = f'<svg {box} role="img" aria-label="{html.escape(description)}">'
    return opening + svg[svg.index(">") + 1 :]


def heading(key: Sequence[Sequence[str]]) -> float:
    """Height of a key with these lines of names, in points."""
    return LINE * sum(map(len, key)) + (8 if key else 0)


def key(figure, entries) -> None:
    """Write names below the title, each after its mark: (mark, lines of the name, colour of the mark)."""
    width, height, top = 72 * SIZE[0], 72 * figure.get_figheight(), 26
    for mark, lines, colour in entries:
        figure.text(MARGIN / width, 1 - (top + LINE / 2) / height, mark, va="center", color=colour)
        for line in lines:
            figure.text((MARGIN + 18) / width, 1 - (top + LINE / 2) / height, line, va="center", color=INK)
            top += LINE


def title(figure, title: str) -> None:
    width, height = 72 * figure.get_size_inches()
    figure.text(MARGIN / width, 1 - 13 / height, title, va="center", fontsize=11, color=INK)


def text_width(text: str) -> float:
    """An upper bound of the width of a text in points, in the fonts that browsers use without one named."""
    return FONT * sum(map(_letter, text))


def _letter(letter: str) -> float:
    """Width of a letter as a share of the font size: DejaVu Sans, wider than most fonts, rounded up."""
    if unicodedata.east_asian_width(letter) in "WF":
        return 1.0
    if unicodedata.combining(letter):
        return 0.0
    if letter in "ijl.,:;'|!ftI()[] -/":
        return 0.42
    if letter in "mwMW@%&<>=+±×…—":
        return 1.0
    return 0.79 if letter.isupper() else 0.65


def wrap(text: str, width: float) -> list[str]:
    """Split a text into lines at most `width` points wide: between words, else within a word.

    >>> wrap("a student with a long name", 80)
    ['a student', 'with a long', 'name']
    """
    lines, line = [], ""
    for word in text.split():
        if line and text_width(f"{line} {word}") > width:
            lines.append(line)
            line = ""
        for letter in f" {word}" if line else word:
            if line and text_width(line + letter) > width:
                lines.append(line)
                line = ""
            line += letter
    return [*lines, line]


def wrap_names(names: Sequence[str]) -> list[list[str]]:
    """The lines of each name in a key as wide as a figure."""
    return [wrap(name, 72 * SIZE[0] - 40) for name in names]
