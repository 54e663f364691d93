"""The project's docstrings as Sphinx reads them: sections become fields, backticks code."""

import inspect
import re
import textwrap
from collections.abc import Iterator

SECTION = re.compile(r"^(Parameters|Returns|Yields|Raises|Source|Sources):\s*(.*)$")
ENTRY = re.compile(r"^([*\w, ]+): (.*)$")


def as_fields(app, what, name, obj, options, lines: list[str]) -> None:
    """Rewrite a docstring in place, as Sphinx asks for."""
    lines[:] = converted(lines)
    if what == "class" and issubclass(obj, tuple) and hasattr(obj, "_fields"):
        lines += ["", ":Fields:", *table(fields(obj))]


def no_fields(app, what, name, obj, skip: bool, options) -> bool:
    """A NamedTuple's fields stand in its own docstring."""
    return skip or "Alias for field number" in (getattr(obj, "__doc__", None) or "")


def converted(lines: list[str]) -> list[str]:
    """A docstring's lines in reStructuredText; examples stay as they are."""
    text, out = "\n".join(lines).rstrip(), []
    for block in re.split(r"\n\s*\n", text):
        if block.lstrip().startswith(">>>"):
            out += ["", *textwrap.dedent(block).splitlines(), ""]
        else:
            out += ["", *prose(block.splitlines()), ""]
    return out


def prose(lines: list[str]) -> Iterator[str]:
    """Paragraphs and sections of a block."""
    section, body = None, []
    for line in [*lines, "Source:"]:  # a last heading, so that what came before is written
        head = SECTION.match(line)
        if not head:
            body.append(line)
            continue
        if section is None:
            yield from (escaped(row) for row in body)
        elif section == "Parameters":
            yield from ["", ":Parameters:", *table(entries(body))]
        else:
            yield f":{section}: " + escaped(" ".join(row.strip() for row in body))
        section, body = head[1], [head[2]] if head[2] else []


def entries(lines: list[str]) -> list[tuple[str, str]]:
    """`name: text` pairs, continued where a line is indented further."""
    found: list[tuple[str, str]] = []
    rows = textwrap.dedent("\n".join(lines)).splitlines()
    for line in rows:
        head = ENTRY.match(line)
        if head and not line.startswith(" "):
            found.append((head[1], head[2]))
        elif found:
            found[-1] = (found[-1][0], f"{found[-1][1]} {line.strip()}")
    return found


def fields(obj: type) -> list[tuple[str, str]]:
    """A NamedTuple's fields, with the comment beside each."""
    try:
        source = inspect.getsource(obj)
    except (OSError, TypeError):
        return []
    said = dict(re.findall(r"^    (\w+): .*?# (.+)$", source, re.M))
    return [(name, said.get(name, "")) for name in obj._fields]


def table(pairs: list[tuple[str, str]]) -> list[str]:
    """A definition list, indented as a field's body."""
    rows = [f"    ``{name}``\n        {escaped(text) or '—'}" for name, text in pairs]
    return "\n".join(rows).splitlines() + [""]


def escaped(line: str) -> str:
    """A line without accidental markup, code in double backticks."""
    out = ""
    for i, part in enumerate(re.split(r"(`[^`]+`)", line)):
        if i % 2:
            out += (r"\ " if out[-1:].isalnum() else "") + f"`{part}`"
        else:
            after = i > 0 and part[:1].isalnum()
            out += (r"\ " if after else "") + re.sub(r"([\\*|_`])", r"\\\1", part)
    return out
