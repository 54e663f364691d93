"""The widgets in a real browser: `python tests/browser.py`, under JupyterLab and Notebook 7.

Opens the workshop in a copy of the notebooks, runs it all, moves every widget by mouse and by
keyboard, and reports what a move costs: milliseconds in the page, from the key to the new pixels,
and the kernel's processor milliseconds, which do not depend on how busy the machine is. Fails if
pixels do not change, a cell fails, the page's console reports an error, or a kernel computes longer
than a move may take.
"""

import argparse
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple
from urllib.request import urlopen

import psutil
from playwright.sync_api import TimeoutError, sync_playwright

from manifold_xai.course.seats import computed

ROOT = Path(__file__).parents[1]
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FACES = {"lab": "lab/tree/60_workshop.ipynb", "notebook": "notebooks/60_workshop.ipynb"}
BARS = {"method": 1000, "MIG": 5000}  # milliseconds to another method's path; a move takes MOVE
MOVE = 100
# In the page: note when the user acts, then look at each frame until the picture has changed.
WATCH = """image => {
  const seen = () => {
    if (image.tagName !== "CANVAS") return image.complete && image.naturalWidth && image.currentSrc;
    const { width, height } = image;
    const bytes = image.getContext("2d").getImageData(0, 0, width, height).data.buffer;
    return new Uint32Array(bytes).reduce((sum, v, i) => (31 * sum + v) | 0, 7);
  };
  const watch = { before: seen(), began: null, took: null };
  const begun = (event) => (watch.began ??= event.timeStamp);
  for (const kind of ["keydown", "pointerdown", "click", "change"])
    window.addEventListener(kind, begun, { capture: true, once: true });
  const look = () => {
    const now = seen();
    if (watch.began !== null && now && now !== watch.before)
      watch.took = performance.now() - watch.began;
    else requestAnimationFrame(look);
  };
  look();
  window.watch = watch;
}"""
# messages of the browser that do not concern the widgets
OTHERS = ("favicon", "ResizeObserver", "source map", "/lsp", "checkpoints", "translations")
OTHERS += ("reading 'schema'",)  # Notebook 7.6 opening any notebook: its own shortcuts' settings


def copied(folder: Path, profile: str) -> Path:
    """The workshop alone in a folder, at a profile's sizes, without outputs."""
    book = json.loads((ROOT / "nbs" / "60_workshop.ipynb").read_text(encoding="utf8"))
    for cell in book["cells"]:
        if "parameters" in cell["metadata"].get("tags", []):
            text = "".join(cell["source"]).replace('"cpu"', f'"{profile}"', 1)
            cell["source"] = [text.replace("None, False", f'"{folder / "out"}", False')]
        if cell["cell_type"] == "code":
            cell["outputs"] = []
    last = dict(cell_type="code", execution_count=None, id="0ba1", metadata={}, outputs=[])
    book["cells"].append(last | {"source": f'open("{folder / "done"}", "w").close()'})
    (folder / "60_workshop.ipynb").write_text(json.dumps(book), encoding="utf8")
    return folder


READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && cd "$0" && exec "$@"'


class Server:
    """A Jupyter server of this environment; a context.

    Parameters:
        folder: for its settings and its log, and of notebooks where no `room` is named
        room: a handout, which the server and its kernels can only read
    """

    def __init__(self, folder: Path, room: Path | None = None):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.room, self.token = folder, room, secrets.token_hex(8)

    def environment(self) -> dict[str, str]:
        """Variables of the server: settings and caches of its own, the package from this tree."""
        env = {k: v for k, v in os.environ.items() if k != "MANIFOLD_XAI_ROOT"}
        env |= {} if self.room else {"MANIFOLD_XAI_ROOT": str(ROOT)}
        path = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
        env |= {"PYTHONPATH": os.pathsep.join(path), "OMP_WAIT_POLICY": "passive"}
        own = {"JUPYTER_CONFIG_DIR": "conf", "JUPYTERLAB_SETTINGS_DIR": "settings"}
        own |= {"IPYTHONDIR": "ipython", "XDG_CACHE_HOME": "cache"}
        return env | {name: str(self.folder / place) for name, place in own.items()}

    def __enter__(self):
        whole = self.folder / "settings" / "@jupyterlab" / "notebook-extension"
        whole.mkdir(parents=True)  # every cell is in the page, seen or not
        (whole / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')
        options = [f"--ServerApp.port={self.port}", f"--IdentityProvider.token={self.token}"]
        options += ["--no-browser", "--allow-root", "--expose-app-in-browser"]
        command = [sys.executable, "-m", "jupyter", "lab", *options]
        if self.room:
            alone = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", READ_ONLY]
            command = [*alone, str(self.room), *command]
        self.log = (self.folder / "server.log").open("w")
        self.process = subprocess.Popen(
            command, cwd=self.folder, env=self.environment(), stdout=self.log, stderr=self.log
        )
        for _ in range(240):
            try:
                urlopen(f"http://127.0.0.1:{self.port}/api?token={self.token}", timeout=5)
                return self
            except OSError:
                time.sleep(0.5)
        said = (self.folder / "server.log").read_text()
        raise RuntimeError(f"the server did not start: {said[-500:]}")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(20)
        self.log.close()

    def address(self, path: str) -> str:
        """A page of this server."""
        return f"http://127.0.0.1:{self.port}/{path}?token={self.token}"


def until(what, seconds: float, name: str):
    """Wait until what() is true, and return it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError(f"{name}: not within {seconds} s")


# Whether a kernel answers this page; a page looks idle before it has asked for one.
READY = """async () => {
  const sessions = await (await fetch("/api/sessions")).json();
  return sessions.some(({ kernel }) => kernel?.connections && kernel.execution_state === "idle");
}"""


def run_all(page, face: str, folder: Path, seconds: float) -> None:
    """Run every cell, and wait for the last of them."""
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=120_000)
    agree = page.locator(".jp-Dialog .jp-mod-accept")  # which kernel? the one it names
    page.add_locator_handler(agree, lambda: agree.first.click())
    until(lambda: page.evaluate(READY), 120, f"{face}: a kernel answers")
    idle = ".jp-Notebook-ExecutionIndicator[data-status='idle']"
    page.wait_for_selector(idle, timeout=120_000, state="attached")

    def begun():
        """Ask again while nothing runs: a page that is still loading loses a click."""
        page.click(".lm-MenuBar-itemLabel:text-is('Run')")
        page.click(".lm-Menu-itemLabel:text-is('Run All Cells')")
        page.wait_for_timeout(3000)
        prompts = page.locator(".jp-CodeCell .jp-InputPrompt").all_text_contents()
        return any(p.strip() not in ("", "[ ]:") for p in prompts)

    until(begun, 60, f"{face}: Run All Cells begins")
    wrong = ".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr'] .ansi-red-fg"
    until(
        lambda: (folder / "done").exists() or page.locator(wrong).count(),
        seconds,
        f"{face}: every cell has run",
    )
    assert (folder / "done").exists(), page.locator(wrong).first.text_content()
    page.wait_for_timeout(1000)


class Move(NamedTuple):
    """What a move cost, in milliseconds."""

    page: float  # from the user's action to the new pixels
    kernel: float  # that kernels computed in the meantime


class Hand:
    """What moves the widgets of a page, and keeps what each move cost by name."""

    def __init__(self, page, server: Server):
        self.page, self.server = page, server
        self.took: dict[str, list[Move]] = {}

    def computed(self) -> float:
        """Milliseconds that the server's kernels have computed."""
        started = psutil.Process(self.server.process.pid).children()
        return 1000 * sum(computed(p) for p in started if "ipykernel" in " ".join(p.cmdline()))

    def move(self, name: str, image, act, seconds: float = 60) -> None:
        """Act, and wait until the picture is another one."""
        image.scroll_into_view_if_needed()
        image.evaluate(WATCH)
        before = self.computed()
        act()
        try:
            self.page.wait_for_function("() => watch.took !== null", timeout=1000 * seconds)
        except TimeoutError as error:
            raise AssertionError(f"{name}: the picture does not change") from error
        took = self.page.evaluate("() => watch.took")
        self.took.setdefault(name, []).append(Move(took, self.computed() - before))

    def keys(self, name: str, image, keys: str) -> None:
        """Press keys, one move each."""
        for key in keys.split():
            self.move(name, image, lambda: self.page.keyboard.press(key))


def try_pictures(hand: Hand) -> None:
    """Explorer, attack slider and study: sliders by keyboard, a choice, three answers."""
    page = hand.page
    images = [page.locator("img.widget-image").nth(i) for i in range(3)]
    for name, image, handle in (("explorer", images[0], 0), ("attack", images[1], 2)):
        page.locator(".widget-slider .noUi-handle").nth(handle).focus()
        hand.keys(name, image, "ArrowRight ArrowRight ArrowLeft ArrowLeft")
    method = page.locator(".widget-dropdown select").nth(1)
    for chosen in method.locator("option").all_text_contents()[1:]:
        kind = "MIG" if chosen == "MIG" else "method"
        hand.move(f"{kind}: {chosen}", images[0], lambda: method.select_option(chosen))
    name = page.locator(".widget-text input[type=text]").last
    name.fill("browser")
    name.press("Enter")
    left = page.get_by_role("button", name="the left one")
    until(left.is_enabled, 30, "the study knows who answers")
    hand.move("study", images[2], left.click)
    left.focus()
    hand.keys("study", images[2], "Enter")


def try_canvases(hand: Hand) -> None:
    """Ellipses and playground: by keyboard and by mouse."""
    page = hand.page
    canvases = page.locator("canvas[tabindex='0']")
    assert canvases.count() == 2, canvases.count()
    for i, name in enumerate(("ellipses", "playground")):
        plane = canvases.nth(i)
        plane.scroll_into_view_if_needed()
        box = plane.bounding_box()
        across = [box["x"] + 0.6 * box["width"], box["y"] + 0.4 * box["height"]]
        hand.move(name, plane, lambda: page.mouse.click(*across))
        plane.focus()
        hand.keys(name, plane, "ArrowUp ArrowLeft ArrowDown ArrowRight")
    page.wait_for_function(
        "[...document.querySelectorAll('.told')].at(-1).textContent.includes('for these ends')",
        timeout=60_000,
    )
    page.get_by_label("sweep of the solver").focus()
    hand.keys("sweeps", plane, "Home End")
    page.get_by_role("button", name="watch the sweeps").focus()
    hand.keys("sweeps", plane, "Enter")


def slow(took: dict[str, list[Move]]) -> list[str]:
    """The moves for which a kernel computed longer than it may."""
    middle = {name: median(move.kernel for move in moves) for name, moves in took.items()}
    return [
        f"{name}: the kernel computes {ms:.0f} ms a move"
        for name, ms in middle.items()
        if ms > BARS.get(name.partition(":")[0], MOVE)
    ]


def tried(face: str, profile: str, seconds: float, pictures: Path | None) -> dict[str, list[Move]]:
    """Every widget moved under one face of Jupyter: what its moves cost."""
    with tempfile.TemporaryDirectory() as folder, Server(copied(Path(folder), profile)) as server:
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page, said = browser.new_page(viewport=dict(width=1280, height=1000)), []
            page.on("pageerror", lambda error: said.append(f"page error: {error}"))
            page.on(
                "console", lambda m: m.type == "error" and said.append(f"{m.text} {m.location}")
            )
            hand = Hand(page, server)
            page.goto(server.address(FACES[face]), timeout=120_000)
            try:
                run_all(page, face, Path(folder), seconds)
                try_canvases(hand)
                try_pictures(hand)
            except Exception:
                print(hand.took, *said[:5], sep="\n")
                if pictures:
                    pictures.mkdir(parents=True, exist_ok=True)
                    page.screenshot(path=pictures / f"{face}-failed.png")
                raise
            if pictures:
                pictures.mkdir(parents=True, exist_ok=True)
                for i, box in enumerate(
                    page.locator(".jp-OutputArea-output .jupyter-widgets").all()
                ):
                    if (box.bounding_box() or {"height": 0})["height"] > 150:
                        box.screenshot(path=pictures / f"{face}-{i}.png")
            browser.close()
    bad = [line for line in said if not any(word in line for word in OTHERS)]
    assert not bad, "\n".join(bad[:5])
    return hand.took


def main(arguments=None) -> int:
    parse = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parse.add_argument("--faces", default=",".join(FACES))
    parse.add_argument("--profile", default="smoke")
    parse.add_argument("--timeout", type=float, default=300, help="seconds for Run All")
    parse.add_argument("--pictures", type=Path, help="folder for screenshots")
    asked = parse.parse_args(arguments)
    failed = []
    for face in asked.faces.split(","):
        start = time.monotonic()
        took = tried(face, asked.profile, asked.timeout, asked.pictures)
        print(f"{face}: every widget moved, no error; {time.monotonic() - start:.0f} s in all")
        print(f"  load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; milliseconds a move:")
        for name, moves in took.items():
            page, kernel = (median(part) for part in zip(*moves))
            print(f"  {name}: {page:.0f} in the page, {kernel:.0f} in the kernel ({len(moves)})")
        failed += [f"{face}: {line}" for line in slow(took)]
    print(*failed, sep="\n")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
