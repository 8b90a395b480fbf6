"""Write one self-contained HTML file of text, tables and figures, for phone and desktop, light and dark."""

import dataclasses
import html
import os
import re
from collections.abc import Sequence
from pathlib import Path

from seed_jax.data import files
from seed_jax.report.svg import Figure
from seed_jax.report.tables import Table


@dataclasses.dataclass(frozen=True)
class Details:
    """A table that the reader unfolds by clicking on its summary, e.g. the configuration."""

    summary: str
    table: Table


@dataclasses.dataclass(frozen=True)
class Heading:
    """The heading of a section."""

    text: str


@dataclasses.dataclass(frozen=True)
class Lead:
    """A paragraph that explains what follows."""

    text: str


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the page says first, next to its figure where the screen is wide enough.

    Attributes:
      lines: name, what is said of it, and whether to stress it; the first line is big.
    """

    lines: Sequence[tuple[str, str, bool]]
    figure: Figure


@dataclasses.dataclass(frozen=True)
class Notes:
    """A list of sentences."""

    items: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Figures:
    """Figures side by side where the screen is wide enough."""

    figures: Sequence[Figure]


Block = Heading | Lead | Answer | Notes | Figures | Table | Details


def write(
    path: str | os.PathLike,
    title: str,
    *,
    lead: str = "",
    tables: Sequence[Table] = (),
    figures: Sequence[Figure] = (),
    notes: Sequence[str] = (),
    details: Sequence[Details] = (),
) -> Path:
    """Write a page with the usual order and return its path.

    Args:
      path: of the HTML file; its folder is created if missing.
      title: heading and browser title. Texts are plain, except that `code` in backticks is set as code.
      lead: paragraph below the title.
      tables: shown before the figures.
      figures: shown side by side where the screen is wide enough.
      notes: a list below the figures.
      details: folded tables at the end.

    Raises:
      UserError: the file cannot be written.
    """
    blocks = [*([Lead(lead)] if lead else []), *tables]
    blocks += [Figures(figures)] if figures else []
    blocks += [Heading("Notes"), Notes(notes)] if notes else []
    return compose(path, title, [*blocks, *details])


def compose(path: str | os.PathLike, title: str, blocks: Sequence[Block]) -> Path:
    """Write a page with these blocks below its title, and return its path.

    Raises:
      UserError: the file cannot be written.
    """
    body = "\n".join([f"<h1>{_text(title)}</h1>", *map(_block, blocks)])
    files.write(Path(path), _PAGE.format(title=html.escape(title), css=_CSS, body=body))
    return Path(path)


def save(folder: Path, figures: Sequence[Figure]) -> None:
    """Write each figure as the file `NAME.svg`, for other pages and papers.

    Raises:
      UserError: a file cannot be written.
    """
    for figure in figures:
        files.write(folder / f"{figure.name}.svg", printable(figure))


def _block(block: Block) -> str:
    match block:
        case Heading(text):
            return f"<h2>{_text(text)}</h2>"
        case Lead(text):
            return f'<p class="lead">{_text(text)}</p>'
        case Answer(lines, figure):
            said = (
                f'<li class="{"strong" if strong else "weak"}"><b>{_text(name)}</b>: {_text(sentence)}</li>'
                for name, sentence, strong in lines
            )
            return f'<div class="answer"><ul>{"".join(said)}</ul>{_figure(figure)}</div>'
        case Notes(items):
            return f"<ul>{''.join(f'<li>{_text(item)}</li>' for item in items)}</ul>"
        case Figures(figures):
            return f'<div class="figures">{"".join(_figure(figure) for figure in figures)}</div>'
        case Details(summary, table):
            return f"<details><summary>{_text(summary)}</summary>{_table(table)}</details>"
    return _table(block)


def printable(figure: Figure) -> str:
    """The text of an SVG file with the figure in fixed colours: tools for papers know no CSS variables."""
    light = dict(re.findall(r"(--[\w-]+): (#\w+);", _COLOURS.partition("@media")[0]))
    body = re.sub(r"var\((--[\w-]+)\)", lambda found: light[found[1]], figure.svg.removeprefix("<svg"))
    return f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"{body}\n'


def _text(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))


def _figure(figure: Figure) -> str:
    caption = f"<figcaption>{_text(figure.caption)}</figcaption>" if figure.caption else ""
    return f"<figure>{figure.svg}{caption}</figure>"


def _table(table: Table) -> str:
    kinds = [' class="prose"' if prose else "" for prose in table.prose()]
    head = "".join(
        f'<th scope="col"{kind}>{_text(name)}</th>' for name, kind in zip(table.header, kinds, strict=True)
    )
    rows = []
    for first, *rest in table.cells():
        cells = "".join(f"<td{kind}>{_text(cell)}</td>" for cell, kind in zip(rest, kinds[1:], strict=True))
        rows.append(f'<tr><th scope="row"{kinds[0]}>{_text(first)}</th>{cells}</tr>')
    body = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<figure class="table"><div class="scroll" tabindex="0">{body}</div></figure>'


# The series have Okabe and Ito's colours, which colour-blind readers can tell apart, with more contrast.
_COLOURS = """
:root { color-scheme: light dark; --page: #fff; --ink: #1b1d20; --soft: #5b6067; --faint: #dfe1e4;
  --series-0: #0069a8; --series-1: #c24e00; --series-2: #00805c; --series-3: #a8487f; --series-4: #8a6a00;
  --series-5: #1f75a6; }
@media (prefers-color-scheme: dark) {
  :root { --page: #15171a; --ink: #e6e8ea; --soft: #a0a6ad; --faint: #33373c;
    --series-0: #56b4e9; --series-1: #f08a3c; --series-2: #2fc195; --series-3: #dd94be; --series-4: #e3c23c;
    --series-5: #9ecbe8; } }
"""
_CSS = (
    _COLOURS
    + """
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 76rem; background: var(--page);
  color: var(--ink); font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 2.5rem 0 .75rem; }
.lead { color: var(--soft); max-width: 44rem; margin: 0 0 1.5rem; }
li { max-width: 44rem; margin: .25rem 0; }
code { font: .9em ui-monospace, SFMono-Regular, Menlo, monospace; overflow-wrap: anywhere; }
.answer { display: flex; flex-wrap: wrap; gap: 1.5rem 3rem; align-items: start; }
.answer ul { flex: 1 1 26rem; min-width: 0; margin: 0; padding: 0; list-style: none;
  overflow-wrap: anywhere; }
.answer li { margin: .9rem 0; padding-left: .9rem; border-left: .25rem solid var(--faint); }
.answer li:first-child { font-size: 1.5rem; line-height: 1.3; margin: 0 0 1.4rem; }
.answer .strong { border-color: var(--ink); }
.answer + .lead { margin-top: 1.5rem; }
.answer figure { flex: 1 1 26rem; min-width: 0; margin: 0; max-width: 36rem; }
.table { margin: 1.5rem 0; }
.scroll { overflow-x: auto; background-repeat: no-repeat; background-image:
    linear-gradient(90deg, var(--page) 33%, transparent),
    linear-gradient(270deg, var(--page) 33%, transparent),
    linear-gradient(90deg, var(--faint), transparent), linear-gradient(270deg, var(--faint), transparent);
  background-position: 0 0, 100% 0, 0 0, 100% 0; background-attachment: local, local, scroll, scroll;
  background-size: 3rem 100%, 3rem 100%, .75rem 100%, .75rem 100%; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .93rem; }
th, td { padding: .4rem 1.25rem .4rem 0; text-align: right; white-space: nowrap; vertical-align: top;
  border-bottom: 1px solid var(--faint); }
thead th { color: var(--soft); font-weight: 500; white-space: normal; vertical-align: bottom;
  min-width: 7.4rem; max-width: 12rem; overflow-wrap: anywhere; }
th:first-child { text-align: left; font-weight: 500; }
th:last-child, td:last-child { padding-right: 0; }
.prose { text-align: left; white-space: normal; min-width: 12rem; max-width: 30rem; overflow-wrap: anywhere; }
@media (max-width: 30rem) { table { font-size: .8rem; } th, td { padding-right: .8rem; }
  .prose { min-width: 9rem; } thead th { min-width: 6rem; }
  .answer li:first-child { font-size: 1.25rem; } }
details td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
details thead th { text-align: left; }
summary { cursor: pointer; margin-top: 1.5rem; }
.figures { display: grid; gap: 2rem 2.5rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
.figures figure { margin: 0; max-width: 36rem; }
figure svg { display: block; width: 100%; height: auto; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figure svg text { font-family: inherit !important; }
figcaption { color: var(--soft); font-size: .9rem; max-width: 44rem; margin-top: .25rem; }
"""
)

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{css}</style>
</head>
<body>
{body}
</body>
</html>
"""
