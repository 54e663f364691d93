"""Open every page of the built site in Chromium, and say what is wrong with it.

python website/check.py FOLDER [PAGE ...]
"""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlparse

from PIL import Image
from playwright.sync_api import Page, TimeoutError, sync_playwright
from stage import DPI

ARGS = ["--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
SCROLLING = 0.05  # share of a page's code cells that may scroll sideways on a laptop
COLUMNS = 100  # of code that fit beside the side bars
LABEL = 10  # pixels of the smallest label
LOOK = """() => {
  const all = (where) => [...document.querySelectorAll(where)];
  const wide = (e) => e.scrollWidth > e.clientWidth + 1;
  const shown = (e) => e.offsetParent !== null;
  const columns = (e) => {
    const style = getComputedStyle(e), pen = document.createElement("canvas").getContext("2d");
    pen.font = `${style.fontSize} ${style.fontFamily}`;
    const room = e.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    return Math.floor(room / pen.measureText("0").width);
  };
  const cells = all("div.cell_input pre").filter(shown);
  const figures = all("div.cell_output img").filter(shown).map((img) => {
    const source = img.closest("div.cell")?.querySelector("div.cell_input")?.textContent ?? "";
    const points = [...source.matchAll(/fontsize=([\\d.]+)/g)].map((m) => Number(m[1]));
    return {src: img.src, width: img.getBoundingClientRect().width, points};
  });
  return {
    cells: cells.length,
    scrolling: cells.filter(wide).length,
    columns: Math.min(...cells.map(columns)),
    figures,
    cut: all("div.cell_output").filter((e) => shown(e) && e.querySelector("img") && wide(e)).length,
    silent: all("article img, .slides img")
      .filter((i) => !i.alt.trim() || i.alt.includes("_images/")).map((i) => i.src.slice(-40)),
    formulas: all(".math").length + all("script[type^='math/']").length,
    typeset: all("mjx-container").length,
    merror: all("mjx-merror, [data-mjx-error]").map((e) => e.textContent.slice(0, 60)),
    directives: all("pre").filter((e) => /^#\\|/m.test(e.textContent)).length,
  };
}"""
OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
# Whether a canvas that takes keys changes under an arrow: it shows a widget that moves.
MOVES = """canvas => {
  const press = (key) => canvas.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  const before = canvas.toDataURL();
  return ["ArrowUp", "ArrowLeft"].every((key) => {
    const last = canvas.toDataURL();
    press(key);
    return canvas.toDataURL() !== last;
  }) && canvas.toDataURL() !== before;
}"""
VIEWS = "script[type='application/vnd.jupyter.widget-view+json']"
ALIVE = "60_workshop.html"  # has widgets that move without a kernel
WIDEST = """() => [...document.querySelectorAll("main *")].filter((e) =>
  e.getBoundingClientRect().right > innerWidth + 1
  && !e.closest("pre, table, .cell_output, .forest-box, mjx-container")
).slice(0, 3).map((e) => e.tagName + "." + e.className)"""


def main(folder: Path, names: list[str]) -> int:
    """Print what is wrong, by page, for some pages or all; 1 if anything is."""
    built = sorted(p for p in folder.rglob("*.html") if "_static" not in p.parts)
    pages = [folder / name for name in names] or built
    wrong = 0
    browser_path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=browser_path, args=ARGS)
        page = browser.new_page()
        page.set_default_timeout(120_000)  # milliseconds: a busy machine
        heard: list[str] = []
        listen(page, heard)
        for path in pages:
            heard.clear()
            wrong += told(path.relative_to(folder).as_posix(), [*looked_at(page, path), *heard])
        heard.clear()
        wrong += told("search", [*searched(page, folder), *heard])
        browser.close()
    print(f"{len(pages)} pages, {wrong} with something wrong")
    return int(wrong > 0)


def told(name: str, found: list[str]) -> bool:
    """Print what was found on a page; whether it was anything."""
    if found:
        print(name, *sorted(set(found)), sep="\n    ", flush=True)
    return bool(found)


def listen(page: Page, heard: list[str]) -> None:
    """Note errors, missing files and requests that leave the site."""

    def asked(request):
        if not request.url.startswith(("file:", "data:", "blob:")):
            heard.append(f"asks for {request.url}")

    def said(message):
        if message.type == "error":
            heard.append(f"console: {message.text[:200]}")

    page.on("request", asked)
    page.on("requestfailed", lambda request: heard.append(f"missing {request.url}"))
    page.on("pageerror", lambda error: heard.append(f"error: {error}"))
    page.on("console", said)


def looked_at(page: Page, path: Path) -> Iterator[str]:
    """What is wrong with a page on a laptop's screen, then on a phone's."""
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto(path.as_uri())
    page.wait_for_function("() => !window.MathJax?.startup?.promise || window.MathJax.done")
    seen = page.evaluate(LOOK)
    if seen["formulas"] and not seen["typeset"]:
        yield f"none of {seen['formulas']} formulas is set"
    if seen["scrolling"] > SCROLLING * seen["cells"]:
        yield f"{seen['scrolling']} of {seen['cells']} code cells scroll sideways"
    if seen["cells"] and seen["columns"] < COLUMNS:
        yield f"a cell has room for {seen['columns']} columns of code"
    if seen["cut"]:
        yield f"{seen['cut']} figures are cut off at their right"
    if seen["directives"]:
        yield f"{seen['directives']} cells show directives"
    yield from (f"no alternative text: {src}" for src in seen["silent"])
    yield from (f"formula not understood: {text}" for text in seen["merror"])
    for figure in seen["figures"]:
        size = label(figure)
        if size < LABEL:
            yield f"a figure's smallest label is {size:.1f} px: {figure['src'][-24:]}"
    if "slides" not in path.parts:
        yield from moved(page, path.name)
        page.set_viewport_size({"width": 390, "height": 800})
        if (over := page.evaluate(OVERFLOW)) > 0:
            yield f"{over} px too wide for a phone: {page.evaluate(WIDEST)}"


def moved(page: Page, name: str) -> Iterator[str]:
    """What is wrong with the widgets of a page: each must move by key and by mouse."""
    views = page.locator(VIEWS).count()
    if name == ALIVE and not views:
        yield "no widget that moves without a kernel"
    if not views:
        return
    planes = page.locator("canvas[tabindex='0']")
    try:
        planes.nth(views - 1).wait_for()
    except TimeoutError:
        yield f"{planes.count()} of {views} widgets came to life"
        return
    for i in range(views):
        plane = planes.nth(i)
        if not plane.evaluate(MOVES):
            yield f"widget {i + 1} does not move by arrow keys"
        before = plane.evaluate("e => e.toDataURL()")
        plane.click(position={"x": 90, "y": 120})
        if plane.evaluate("e => e.toDataURL()") == before:
            yield f"widget {i + 1} does not move by mouse"


def label(figure: dict) -> float:
    """Pixels of the smallest label of a figure as it is shown, from what its code asks for."""
    with Image.open(unquote(urlparse(figure["src"]).path)) as image:
        dpi, width = image.info.get("dpi", (DPI, DPI))[0], image.width
    return min([9.0, *figure["points"]]) * dpi / 72 * figure["width"] / width


def searched(page: Page, folder: Path) -> Iterator[str]:
    """What is wrong with the search."""
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto((folder / "search.html").as_uri() + "?q=geodesic")
    try:
        page.wait_for_selector("#search-results li a")
    except Exception:
        yield "finds nothing for geodesic"
        return
    first = page.locator("#search-results li a").evaluate_all("all => all.map(a => a.href)")
    if not any("21_geodesics" in link for link in first):
        yield "does not find the lesson on geodesics"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute(), sys.argv[2:]))
