"""The ledger as a page: what LEDGER.md says, claim by claim, with intervals drawn and filters."""

import json
import math
import re
from html import escape
from pathlib import Path
from typing import NamedTuple

FACET = 12  # a column with at most so many different short words can be filtered by
NUMBER = r"-?[\d.]+(?:e[+-]?\d+)?"
ESTIMATE = re.compile(rf"(?:^|; )(.+?) ({NUMBER})(?: \[({NUMBER}), ({NUMBER})\])? \(n = (\d+)\)")
BAR = re.compile(rf"claimed: (above|below|equal) ({NUMBER})")
LINK = re.compile(r"\[([^\]]+)\]\(([^)]+)\)")


class Interval(NamedTuple):
    """A condition's value, with the ends of its interval."""

    name: str
    value: float
    low: float
    high: float


def ledger_page(root: Path) -> str:
    """Markdown of the page.

    Raises: ValueError if LEDGER.md holds no table of claims
    """
    text = (root / "LEDGER.md").read_text(encoding="utf8")
    before, head, rows = parts(text)
    facets = {name: words(rows, i) for i, name in enumerate(head) if i}
    facets = {name: found for name, found in facets.items() if 1 < len(found) <= FACET}
    papers = sorted({paper(row[0]) for row in rows})
    choices = json.dumps({"paper": papers} | facets, ensure_ascii=False)
    filters = f'<form id="ledger-filters" data-choices="{escape(choices)}"></form>'
    claims = [claim(head, row, facets) for row in rows]
    return "\n\n".join([before.replace("nbs/", ""), f"```{{raw}} html\n{filters}\n```", *claims])


def parts(text: str) -> tuple[str, list[str], list[list[str]]]:
    """What stands before the first table whose head begins with `claim`, its head and its rows."""
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if re.match(r"\| *claim *\|", line)), None)
    if start is None:
        raise ValueError("LEDGER.md holds no table whose first column is `claim`.")
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(cells(line))
    return "\n".join(lines[:start]).strip(), cells(lines[start]), rows


def cells(line: str) -> list[str]:
    """The cells of a row of a Markdown table."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def word(cell: str) -> str:
    """What a cell says in a word: what is bold, else what stands before the colon."""
    bold = re.match(r"\*\*(.+?)\*\*", cell)
    return bold[1] if bold else cell.partition(":")[0].strip()


def words(rows: list[list[str]], column: int) -> list[str]:
    found = sorted({word(row[column]) for row in rows if len(row) > column} - {""})
    return found if all(len(w) <= 40 for w in found) else []


def paper(link: str) -> str:
    """The paper of a claim, by its number: MIG, MAGIG, BORDT."""
    return name(link).rpartition("-")[0]


def name(link: str) -> str:
    found = LINK.match(link)
    return found[1] if found else link


def claim(head: list[str], row: list[str], facets: dict[str, list[str]]) -> str:
    """One claim: its number with a link to its evidence, what it says, what we found."""
    told = dict(zip(head[1:], row[1:]))
    kinds = [f"is-{slug(word(told.get(column, '')))}" for column in facets]
    kinds = ["claim", f"is-{slug(paper(row[0]))}", *kinds]
    says = told.pop("says", "")
    title = f"**{row[0].replace('](nbs/', '](')}** {says}"
    lines = [f"- {column}: {cell}" for column, cell in told.items() if cell]
    drawn = max((intervals(cell) for cell in told.values()), key=len, default=[])
    picture = f"```{{raw}} html\n{forest(name(row[0]), drawn, bar(row))}\n```" if drawn else ""
    inside = "\n\n".join([title, "\n".join(lines), picture]).strip()
    return f"({name(row[0])})=\n::::{{container}} {' '.join(kinds)}\n{inside}\n::::"


def slug(text: str) -> str:
    return re.sub(r"\W+", "-", text.lower()).strip("-")


def intervals(text: str) -> list[Interval]:
    """The estimates in a row's words."""
    found = []
    for label, value, low, high, _ in ESTIMATE.findall(text):
        ends = (float(low), float(high)) if low else (float(value), float(value))
        found.append(Interval(label, float(value), *ends))
    return found


def bar(row: list[str]) -> float | None:
    """The threshold that the claim names."""
    found = BAR.search(" ".join(row))
    return float(found[2]) if found else None


def forest(label: str, drawn: list[Interval], threshold: float | None) -> str:
    """Intervals as a drawing of their own, one line a condition, the threshold dashed."""
    marks = [v for i in drawn for v in i[1:]] + ([] if threshold is None else [threshold])
    place = scale(marks)
    height = 20 * len(drawn) + 26
    rows = "".join(line(i, 20 * k + 16, place) for k, i in enumerate(drawn))
    dashed = ""
    if threshold is not None:
        x = place(threshold)
        dashed = f'<line class="bar" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{height - 20}"/>'
        dashed += f'<text class="tick" x="{x:.1f}" y="{height - 5}">{threshold:g}</text>'
    about = f"{label}: {len(drawn)} measured values with their intervals"
    box = f'viewBox="0 0 700 {height}" width="700" height="{height}"'
    start = f'<svg class="forest" {box} role="img" aria-label="{escape(about)}">'
    return f'<div class="forest-box">{start}{dashed}{rows}</svg></div>'


def line(i: Interval, y: int, place) -> str:
    low, value, high = place(i.low), place(i.value), place(i.high)
    name = i.name if len(i.name) <= 42 else i.name[:41] + "…"
    return (
        f'<text x="0" y="{y + 4}">{escape(name)}</text>'
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>'
        f'<circle cx="{value:.1f}" cy="{y}" r="4"/>'
        f'<text class="value" x="700" y="{y + 4}">{i.value:.3g}</text>'
    )


def scale(marks: list[float], left: float = 300, right: float = 620):
    """From a value to a place; by logarithms where all are positive and far apart."""
    low, high = min(marks), max(marks)
    far = low > 0 and high / low > 1000
    measure = math.log10 if far else float
    start, width = measure(low), (measure(high) - measure(low)) or 1.0
    return lambda value: left + (right - left) * (measure(value) - start) / width
