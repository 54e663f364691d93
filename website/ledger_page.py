"""The ledger as a page: what LEDGER.md says, claim by claim, with plotted intervals and filters."""

import csv
import json
import math
import re
from html import escape
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

FACET = 12  # a column with at most so many different short words can be filtered by
LINK = re.compile(r"\[([^\]]+)\]\(([^)]+)\)")


class Interval(NamedTuple):
    """A condition's value, with the ends of its interval."""

    name: str
    value: float
    low: float
    high: float


def ledger_page(root: Path) -> str:
    """Markdown of the page, with links as in LEDGER.md.

    Raises: ValueError if LEDGER.md holds no table of claims
    """
    text = (root / "LEDGER.md").read_text(encoding="utf8")
    before, head, rows = parts(text)
    drawn, bars = intervals(root), thresholds(root)
    facets = {name: words(rows, i) for i, name in enumerate(head) if i}
    facets = {name: found for name, found in facets.items() if 1 < len(found) <= FACET}
    papers = sorted({paper(row[0]) for row in rows})
    choices = json.dumps({"paper": papers} | facets, ensure_ascii=False)
    filters = f'<form id="ledger-filters" data-choices="{escape(choices)}"></form>'
    forests = {k: forest(k, found, bars.get(k)) for k, found in drawn.items()}
    claims = [claim(head, row, facets, forests.get(name(row[0]), "")) for row in rows]
    above = [before.partition("\n## ")[0], stories(text), f"```{{raw}} html\n{filters}\n```"]
    return "\n\n".join([*above, *claims])


def stories(text: str) -> str:
    """A line of links to what is told of each paper, under its heading in LEDGER.md."""
    found = re.findall(r"^## (.+)\n+\[The story\]\((.+?)\)", text, re.M)
    return "Stories: " + " · ".join(f"[{paper}]({page})" for paper, page in found) if found else ""


def parts(text: str) -> tuple[str, list[str], list[list[str]]]:
    """What stands before the first table whose head begins with `claim`, the head, all rows.

    There may be more such tables, one a paper, with the same head.
    """
    lines = text.splitlines()
    starts = [i for i, line in enumerate(lines) if re.match(r"\| *claim *\|", line)]
    if not starts:
        raise ValueError("LEDGER.md holds no table whose first column is `claim`.")
    rows = []
    for start in starts:
        rows += map(cells, takewhile(lambda line: line.startswith("|"), lines[start + 2 :]))
    return "\n".join(lines[: starts[0]]).strip(), cells(lines[starts[0]]), rows


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


def claim(head: list[str], row: list[str], facets: dict[str, list[str]], drawn: str) -> str:
    """One claim: its number with a link to its evidence, what it says, what we found."""
    told = dict(zip(head[1:], row[1:]))
    kinds = [f"is-{slug(word(told.get(column, '')))}" for column in facets]
    kinds = ["claim", f"is-{slug(paper(row[0]))}", *kinds]
    says = told.pop(head[1], "")
    title = f"**{row[0]}** {says}"
    lines = [f"- {column}: {cell}" for column, cell in told.items() if cell]
    picture = f"```{{raw}} html\n{drawn}\n```" if drawn else ""
    inside = "\n\n".join([title, "\n".join(lines), picture]).strip()
    return f"({name(row[0])})=\n::::{{container}} {' '.join(kinds)}\n{inside}\n::::"


def slug(text: str) -> str:
    return re.sub(r"\W+", "-", text.lower()).strip("-")


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, none where there is no file."""
    if not path.exists():
        return []
    with open(path, encoding="utf8", newline="") as lines:
        return list(csv.DictReader(lines))


def thresholds(root: Path) -> dict[str, float]:
    """The bar that each claim names, by claim."""
    claims = table(root / "manifold_xai/assets/claims.csv")
    return {row["id"]: float(row["threshold"]) for row in claims if row["threshold"]}


def intervals(root: Path) -> dict[str, list[Interval]]:
    """By claim, the conditions that were set beforehand; all others where there are none."""
    rows = table(root / "nbs/results/conditions.csv")
    found: dict[str, list[Interval]] = {}
    first = {row["claim"] for row in rows if row["role"] == "headline"}
    for row in rows:
        if row["role"] == "headline" or row["claim"] not in first:
            ends = (float(row[k]) for k in ("value", "low", "high"))
            found.setdefault(row["claim"], []).append(Interval(row["condition"], *ends))
    return found


def forest(label: str, drawn: list[Interval], threshold: float | None) -> str:
    """Intervals as a plot of their own, one line a condition, the threshold dashed."""
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
