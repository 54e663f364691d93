"""What a run says of its chapters, as Markdown: those that failed by name, with their last words.

python .github/summary.py FOLDER    (a run's folder, with its summary.json)
"""

import json
import sys
from pathlib import Path


def summary(folder: Path) -> str:
    """Markdown of summary.json in `folder`; a line that there is none."""
    file = folder / "summary.json"
    if not file.exists():
        return f"No chapter was run: there is no {file}."
    said = json.loads(file.read_text(encoding="utf8"))
    chapters = said["chapters"]
    failed = [c for c in chapters if not c["status"].startswith("done")]
    lines = [f"### {len(chapters) - len(failed)} of {len(chapters)} chapters done"]
    lines[0] += f", profile {said['profile']}, device {said['device'] or 'of the profile'}"
    for c in failed:
        last = (c.get("error") or "no error was recorded").strip().replace("```", "'''")
        lines += ["", f"**{c['chapter']}** {c['status']}", "", "```text", last[-2000:], "```"]
    lines += ["", "| chapter | seconds | status |", "| --- | ---: | --- |"]
    lines += [f"| {c['chapter']} | {c['seconds'] or ''} | {c['status']} |" for c in chapters]
    return "\n".join(lines)


if __name__ == "__main__":
    print(summary(Path(sys.argv[1])))
