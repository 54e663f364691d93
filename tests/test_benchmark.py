"""The benchmark: the same numbers however it is cut, killed or resumed; wrong names are refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import ROOT

pq = pytest.importorskip("pyarrow.parquet")

from manifold_xai.benchmark import cost, maps, results  # noqa: E402
from manifold_xai.benchmark.cell import Cell  # noqa: E402
from manifold_xai.benchmark.grid import GRIDS, read_grid  # noqa: E402
from manifold_xai.benchmark.measures import MEASURES  # noqa: E402
from manifold_xai.benchmark.run import run_grid  # noqa: E402
from manifold_xai.benchmark.unit import Worker, compute  # noqa: E402
from manifold_xai.course.cli import main  # noqa: E402

SMALL = """
about = "Three methods, one of them with feedback, on a few digits."
steps = 4
precision = "float64"
measures = ["removal", "path"]
[methods]
GradInput = {}
IG = { refine = 0.01 }
IG2 = { steps = 4 }
GIG = {}
"""


@pytest.fixture
def grid(tmp_path):
    file = tmp_path / "small.toml"
    file.write_text(SMALL)
    return read_grid(file)


def done(grid, out, **how):
    return pq.read_table(run_grid(grid, out, **dict(limit=6, block=3, progress=False) | how))


def numbers(table):
    """All numbers of a table, (rows, columns)."""
    names = [c for c in table.column_names if str(table.schema.field(c).type) == "double"]
    return torch.tensor([[row[c] for c in names] for row in table.to_pylist()]), names


def assert_same(one, other):
    """The same images of the same cells, with the same numbers."""
    assert one.select(["key", "row"]).equals(other.select(["key", "row"]))
    torch.testing.assert_close(
        numbers(one)[0], numbers(other)[0], atol=1e-9, rtol=0, equal_nan=True
    )


def test_a_grid_run_twice_gives_the_same_bytes(grid, tmp_path):
    done(grid, tmp_path / "a")
    done(grid, tmp_path / "b")
    a, b = ((tmp_path / x / "scores.parquet").read_bytes() for x in "ab")
    assert a == b and len(a) > 1000


def test_numbers_do_not_depend_on_the_block_nor_on_the_order(grid, tmp_path):
    a, names = numbers(done(grid, tmp_path / "a"))
    b, _ = numbers(done(grid, tmp_path / "b", block=4))
    c, _ = numbers(done(grid, tmp_path / "c", block=1))
    assert {"diffid", "perceptual_left", "delta"} <= {*names}
    for other in (b, c):
        torch.testing.assert_close(a, other, atol=1e-6, rtol=0, equal_nan=True)
    assert a.nan_to_num().std(0).max() > 0.1


def test_what_is_done_is_not_done_again_and_more_images_join(grid, tmp_path):
    out = tmp_path / "a"
    done(grid, out, limit=4)
    before = {p: p.stat().st_mtime_ns for p in results.unit_files(out)}
    with pytest.raises(ValueError, match="--resume"):
        done(grid, out)
    more = done(grid, out, resume=True)
    after = {p: p.stat().st_mtime_ns for p in results.unit_files(out)}
    assert before.items() < after.items()
    assert_same(more, done(grid, tmp_path / "b"))


def test_a_forecast_counts_the_passes_of_a_run_and_no_first_call(grid, tmp_path, monkeypatch):
    started = set()

    def slow_at_first(worker, cell, rows):
        unit, first = compute(worker, cell, rows), cell.label not in started
        started.add(cell.label)
        return unit._replace(cpu=unit.cpu + 60 * first)  # as if it compiled something

    monkeypatch.setattr(cost, "compute", slow_at_first)
    told = [*cost.forecast(Worker(), grid, limit=6, block=3)]
    done(grid, tmp_path / "a")
    made = {c["label"]: c for c in results.costs(tmp_path / "a")}
    assert started == {*made} == {c["method"] for c in told} and len(told) == 4
    for c in told:
        real = made[c["method"]]
        assert c["images"] == real["images"] == 6
        if c["method"] != "IG":  # which is refined where an image needs it
            assert c["passes"] == pytest.approx(cost.rows_in(real["passes"]) / 6)
        assert 0 <= c["rest"] < c["seconds"] < 1  # 0: noise hid what is beside the passes


def test_the_first_units_foretell_the_rest_of_a_run(bare, tmp_path, monkeypatch):
    """By passes alone, so exactly; the first unit of a process, which starts up, is set aside."""
    started, written = set(), results.write_unit

    def paced(out, cell, unit, kind):
        seconds = 0.01 * cost.rows_in(unit.passes)
        cold = cell.label not in started
        started.add(cell.label)
        return written(out, cell, unit._replace(cpu=seconds + 60 * cold), kind)

    monkeypatch.setattr(results, "write_unit", paced)
    done(bare, tmp_path, limit=5, block=1)
    held = {c.method: c for c in cost.foretold(tmp_path, warm=1)}
    assert {*held} == {"GradInput", "IG"}
    for c in held.values():
        assert c.images == 3 and c.start == pytest.approx(60)
        assert c.told == pytest.approx(c.took) and c.took == pytest.approx(3 * c.passes / 100)
    assert held["IG"].passes == held["GradInput"].passes + 4
    with pytest.raises(ValueError, match="5 units of GradInput, of which 1 are first ones"):
        cost.foretold(tmp_path, warm=4)


def test_the_lesson_s_costs_hold_all_methods_of_the_table():
    kept = json.loads((ROOT / "nbs/results/50_costs.json").read_text())["costs"]
    assert {c["label"] for c in kept} == {cell.label for cell in read_grid("magig-table1").cells}
    assert all(c["images"] >= 32 and len(c["units"]) >= 8 for c in kept)


def test_shards_are_put_together(grid, tmp_path):
    whole = done(grid, tmp_path / "whole", block=1)
    parts = [tmp_path / f"s{i}" for i in (1, 2, 3)]
    for i, part in enumerate(parts, 1):
        done(grid, part, shard=f"{i}/3", block=1)
    assert_same(pq.read_table(results.merge(parts, tmp_path / "merged")), whole)
    for wrong, said in ((parts[:2], "3/3"), ([*parts, parts[0]], "twice")):
        with pytest.raises(ValueError, match=said):
            results.merge(wrong, tmp_path / "no")
    next(results.unit_files(parts[1])).unlink()
    with pytest.raises(ValueError, match="not finished: 1 image|not finished: 2 images"):
        results.merge(parts, tmp_path / "no")


@pytest.mark.parametrize(
    "change, said",
    [
        (dict(measures=["remval"]), "Did you mean 'removal'"),
        (dict(stepps=3), "Did you mean 'steps'"),
    ],
)
def test_a_wrong_word_is_named_with_the_nearest(change, said):
    with pytest.raises(ValueError, match=said):
        read_grid("digits", **change)


def test_wrong_grids_methods_and_data_are_named(tmp_path, capsys):
    assert main(["benchmark", "magig-tabel1"]) == 2
    assert "Did you mean 'magig-table1'" in capsys.readouterr().err
    file = tmp_path / "own.toml"
    file.write_text('[methods]\n"MAGIG" = {}\n')
    with pytest.raises(ValueError, match="Did you mean 'MA-GIG'"):
        read_grid(file)
    file.write_text("[methods]\nMA-GIG = { fracton = 0.1 }\n")
    with pytest.raises(ValueError, match="option of MA-GIG 'fracton'. Did you mean 'fraction'"):
        read_grid(file)
    file.write_text('data = "imagenett"\n[methods]\nIG = {}\n')
    with pytest.raises(ValueError, match="Did you mean 'imagenet'"):
        run_grid(read_grid(file), tmp_path / "out", tmp_path, progress=False)


@pytest.mark.parametrize(
    "line, said",
    [
        ('steps = "four"', 'steps in .* must be a whole number, 1 or more, got "four"'),
        ("steps = 0", "steps in .* must be a whole number, 1 or more, got 0"),
        ("size = -4", "size in .* must be a whole number, 0 or more, got -4"),
        ('refine = "fine"', 'refine in .* must be a number, 0 or more, got "fine"'),
        ("randomised = 1", "randomised in .* must be true or false, got 1"),
        ("data = 3", "data in .* must be a word, got 3"),
        ('classifiers = "digits-relu"', 'must be a list of names, at least one, got "digits-relu"'),
        ("classifiers = []", "must be a list of names, at least one, got"),
        ('measures = "removal"', 'must be a list of names, got "removal"'),
        ('chosen = "wrong"', "Did you mean 'right'"),
        ('precision = "flot32"', "Did you mean 'float32'"),
        ("about = 3", "about in .* must be a text in quotes, got 3"),
        ("autoencoders = []", "EIG in .* needs an autoencoder"),
        ("part = 3", "must begin with .*part.*, in two brackets"),
    ],
)
def test_a_setting_of_a_wrong_kind_is_named(tmp_path, line, said):
    (tmp_path / "own.toml").write_text(f"{line}\n[methods]\nIG = {{}}\nEIG = {{}}\n")
    with pytest.raises(ValueError, match=said):
        read_grid(tmp_path / "own.toml")


@pytest.mark.parametrize(
    "methods, said",
    [
        ("", "names no method: write .methods."),
        ("[methods]", "names no method: write .methods."),
        ("[methods]\nIG = 3", "IG in .* must be a table, such as {}, got 3"),
        ("[methods]\nIG = {}\n[[part]]\nmethods = []", "methods in .* at least one, got"),
        (
            '[methods]\nGIG = { fraction = "all" }',
            "GIG in .*: fraction must be a number, got 'all'",
        ),
        ('[methods]\nMA-GIG = { slerp = "yes" }', "MA-GIG in .*: slerp must be False, True or"),
        ("[methods]\nMIG = { geodesic = { iteratons = 3 } }", "Did you mean 'iterations'"),
        ('[methods]\nMIG = { geodesic = { iterations = "3" } }', "must be a whole number or None"),
        ('[methods]\nIG = { steps = "many" }', "steps in IG of .* must be a whole number"),
        ("[methods]\nGradInput = { steps = 3 }", "there is no option of GradInput 'steps'"),
        ("[methods]\nIG = { method = 3 }", "there is no method 3"),
    ],
)
def test_a_method_without_sense_is_named(tmp_path, methods, said):
    (tmp_path / "own.toml").write_text(methods)
    with pytest.raises(ValueError, match=said):
        read_grid(tmp_path / "own.toml")


@pytest.mark.parametrize(
    "words, said",
    [
        ("--device nosuch", "there is no device 'nosuch' here. There are: cpu"),
        ("--device meta", "there is no device 'meta' here. There are: cpu"),
        ("--shard x", "must be two numbers, i/n with 1 ≤ i ≤ n, such as 2/8, got 'x'"),
        ("--shard 3/2", "must be two numbers, i/n with 1 ≤ i ≤ n, such as 2/8, got '3/2'"),
        ("--shard 0/2", "must be two numbers, i/n with 1 ≤ i ≤ n, such as 2/8, got '0/2'"),
        ("--block 0", "--block must be a whole number, 1 or more, got 0"),
        ("--workers 0 --engine ray", "--workers must be a whole number, 1 or more, got 0"),
        ("--limit -1", "--limit must be a whole number, 1 or more, got -1"),
        ("--limit 0", "--limit must be a whole number, 1 or more, got 0"),
        ("--size -4", "--size must be a whole number, 1 or more, got -4"),
        ("--size 0", "--size must be a whole number, 1 or more, got 0"),
        ("--steps 0", "--steps must be a whole number, 1 or more, got 0"),
        ("--steps four", "--steps must be a whole number, 1 or more, got four"),
    ],
)
def test_an_option_of_the_command_without_sense_is_named(tmp_path, capsys, words, said):
    out = tmp_path / "out"
    assert main(["benchmark", "digits", "--out", str(out), *words.split()]) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1 and not out.exists()


def test_files_and_folders_that_are_not_there_are_named(tmp_path, capsys):
    for words, said in (
        ([str(tmp_path / "no.toml")], "there is no file"),
        (["report"], "report needs a folder with results"),
        (["report", str(tmp_path / "no")], "holds no benchmark"),
        (["merge", "--out", str(tmp_path / "no")], "merge needs the folders of all shards"),
    ):
        assert main(["benchmark", *words]) == 2
        told = capsys.readouterr().err
        assert said in told and "Errno" not in told and told.count("\n") == 1


@pytest.mark.parametrize("how", [dict(limit=-1), dict(block=0), dict(workers=0), dict(block=1.5)])
def test_counts_without_sense_are_named(grid, tmp_path, how):
    (name,) = how
    with pytest.raises(ValueError, match=f"{name} must be a whole number"):
        run_grid(grid, tmp_path / "out", progress=False, **how)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "setting, said",
    [
        (
            'classifiers = ["digits-smooth", "digits-rlu"]',
            "no classifier 'digits-rlu'. Did you mean",
        ),
        ('judge = "digits-rlu"', "no classifier 'digits-rlu'. Did you mean 'digits-relu'"),
        ('autoencoders = ["digits-silu", "digits-slu"]', "Did you mean 'digits-silu'"),
        ('autoencoders = ["diffusers:nowhere"]', "There is no folder nowhere"),
        ('data = "digit"', "Did you mean 'digits'"),
    ],
)
def test_wrong_names_are_told_before_anything_is_computed(tmp_path, monkeypatch, setting, said):
    """Those of a later part, too; by a run and by a forecast."""
    file = tmp_path / "own.toml"
    parts = f'[[part]]\nmethods = ["IG"]\n[[part]]\nmethods = ["EIG"]\n{setting}\n'
    file.write_text(f"[methods]\nIG = {{}}\nEIG = {{}}\n{parts}")
    monkeypatch.setattr(Worker, "network", lambda *_: pytest.fail("a network was loaded"))
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        run_grid(read_grid(file), tmp_path / "out", tmp_path, progress=False)
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        next(cost.forecast(Worker(tmp_path), read_grid(file)))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "[]", '{"grid": "small"}', "versions", "no wanted", "cells"])
def test_a_damaged_plan_is_named(bare, tmp_path, text):
    done(bare, tmp_path, limit=1)
    kept = tmp_path / "plan.json"
    plan, whole = results.read_plan(tmp_path), kept.read_text()
    if text == "versions":
        text = json.dumps(plan | dict(versions=3))
    elif text == "no wanted":
        text = json.dumps({k: v for k, v in plan.items() if k != "wanted"})
    elif text == "cells":
        text = json.dumps(plan | dict(cells=[dict(label="IG")]))
    kept.write_text(text)
    for ask in (results.scores, results.unfinished):
        with pytest.raises(ValueError, match=r"plan\.json is damaged"):
            ask(tmp_path)
    kept.unlink()  # as the message says
    done(bare, tmp_path, limit=1, resume=True)
    assert kept.read_text() == whole


def test_shards_of_unlike_limits_are_not_merged(bare, tmp_path):
    parts = [tmp_path / "s1", tmp_path / "s2"]
    for i, (part, limit) in enumerate(zip(parts, (2, 4)), 1):
        done(bare, part, shard=f"{i}/2", limit=limit)
    said = r"unlike limits: .*s1 with --limit 2, .*s2 with --limit 4"
    with pytest.raises(ValueError, match=said):
        results.merge(parts, tmp_path / "no")
    done(bare, parts[0], shard="1/2", limit=4, resume=True)
    assert len(pq.read_table(results.merge(parts, tmp_path / "merged"))) == 2 * 4


def test_the_noise_of_smooth_ig_is_the_image_s_own(tmp_path):
    """In blocks of any size and order, and for the image moved a little."""
    file = tmp_path / "smooth.toml"
    file.write_text(
        'steps = 4\nprecision = "float64"\nmeasures = ["sensitivity", "repeatability"]\n'
        '[methods]\n"Smooth IG" = { samples = 3, steps = 4 }\nIG = {}\n'
    )
    smooth, plain = read_grid(file).cells
    assert smooth.settings["steps"] == 4 and smooth.options == dict(samples=3)
    worker = Worker(maps=True)
    whole, one = (compute(worker, smooth, rows) for rows in ([3, 4], [4]))
    assert whole.passes["map: digits-smooth, gradient"] >= 2 * 3 * 5
    torch.testing.assert_close(whole.maps[1:], one.maps, atol=1e-3, rtol=1e-3)
    for name in ("max_sensitivity", "repeatability"):
        assert whole.columns[name][1] == pytest.approx(one.columns[name][0], abs=1e-6)
    assert min(whole.columns["repeatability"]) > 1 - 1e-6  # new noise would give another map
    assert not torch.allclose(whole.maps, compute(worker, plain, [3, 4]).maps, atol=1e-2)


@pytest.mark.parametrize(
    "name, measure, said",
    [
        ("mig-table1", "max_sensitivity", "0.38 … 0.42"),
        ("mig-table1", "infidelity", "4.30 … 9.81"),
        ("mig-table2", "ssim", "0.52 … 0.69"),
    ],
)
def test_the_grids_of_mig_s_tables_have_its_methods(name, measure, said):
    from manifold_xai.benchmark.report import printed_range

    grid = read_grid(name)
    labels = {cell.label for cell in grid.cells}
    assert {"IG", "Smooth IG", "MIG"} <= labels
    assert printed_range(grid.paper, "Smooth IG", measure) == said
    assert all(printed_range(grid.paper, label, measure) for label in labels - {"EIG"})


def test_results_of_another_version_are_refused_by_name(grid, tmp_path, monkeypatch):
    done(grid, tmp_path)
    monkeypatch.setattr("manifold_xai.__version__", "9.9.9")
    with pytest.raises(ValueError, match=r"manifold_xai 0\.\d\.\d \(here 9\.9\.9\)"):
        done(grid, tmp_path, resume=True)


def test_another_grid_does_not_join_a_folder(grid, tmp_path):
    done(grid, tmp_path / "out")
    (tmp_path / "small.toml").write_text(SMALL.replace("steps = 4", "steps = 5", 1))
    with pytest.raises(ValueError, match="begun with other cells"):
        done(read_grid(tmp_path / "small.toml"), tmp_path / "out", resume=True)


def test_a_full_disk_leaves_a_folder_to_go_on_with(grid, tmp_path, monkeypatch):
    wrote, kept = [], results.write_unit

    def full(out, *unit):
        if len(wrote) == 3:
            raise OSError(28, "No space left on device", str(out))
        wrote.append(kept(out, *unit))

    monkeypatch.setattr(results, "write_unit", full)
    with pytest.raises(OSError):
        done(grid, tmp_path / "a")
    monkeypatch.setattr(results, "write_unit", kept)
    assert_same(done(grid, tmp_path / "a", resume=True), done(grid, tmp_path / "b"))


RUN = """
import sys, torch
torch.set_num_threads(1)
from manifold_xai.benchmark.grid import read_grid
from manifold_xai.benchmark.measures import MEASURES  # noqa: E402
from manifold_xai.benchmark.run import run_grid
run_grid(read_grid(sys.argv[1]), sys.argv[2], limit=6, block=1, resume=True, progress=False)
"""


def test_killed_at_random_moments_and_resumed(grid, tmp_path):
    """SIGKILL while it runs, three times: nothing is lost, nothing done twice."""
    out, words = tmp_path / "out", [sys.executable, "-c", RUN, tmp_path / "small.toml"]
    env = os.environ | dict(PYTHONPATH=str(ROOT))
    for wanted in (1, 5, 12):
        process = subprocess.Popen([*words, out], env=env, stdout=subprocess.DEVNULL)
        while process.poll() is None and len([*results.unit_files(out)]) < wanted:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert len([*results.unit_files(out)]) < 24
    subprocess.run([*words, out], env=env, check=True, stdout=subprocess.DEVNULL)
    assert_same(pq.read_table(out / "scores.parquet"), done(grid, tmp_path / "b", block=1))


def test_a_damaged_unit_is_named(grid, tmp_path):
    done(grid, tmp_path)
    path = next(results.unit_files(tmp_path))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="is not a whole unit"):
        results.write_scores(tmp_path)


def test_every_measure_measures(tmp_path):
    file = tmp_path / "all.toml"
    file.write_text(f"steps = 4\nmeasures = {[*MEASURES]}\n[methods]\nIG = {{}}\n")
    worker = Worker()
    (cell,) = read_grid(file).cells
    whole, one = (compute(worker, cell, rows).columns for rows in ([3, 4], [4]))
    assert {"ssim", "infidelity", "max_sensitivity", "repeatability", "complexity"} <= {*whole}
    for name, values in whole.items():
        if name != "image":
            both = torch.tensor([values[1], one[name][0]], dtype=torch.float64)
            assert both.isfinite().all(), name
            torch.testing.assert_close(both[0], both[1], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("path", sorted(GRIDS.glob("*.toml")), ids=lambda p: p.stem)
def test_every_grid_that_ships_can_be_read(path):
    grid = read_grid(path.stem)
    assert grid.about and grid.cells
    assert len({cell.key for cell in grid.cells}) == len(grid.cells)


def test_a_cell_survives_its_json(grid):
    from dataclasses import asdict

    cell = grid.cells[0]
    assert Cell(**json.loads(json.dumps(asdict(cell)))).key == cell.key


def test_the_report_stands_the_paper_beside_it(grid, tmp_path):
    from manifold_xai.benchmark.report import write_report

    done(grid, tmp_path)
    text = write_report(tmp_path).read_text()
    assert "| IG2 |" in text and "rank" in text and (tmp_path / "figure.svg").exists()
    assert (tmp_path / "table.html").read_text().count("<table>") == text.count("\n## ")


@pytest.fixture
def bare(tmp_path):
    """Two methods and no measure."""
    file = tmp_path / "bare.toml"
    file.write_text("steps = 4\nmeasures = []\n[methods]\nGradInput = {}\nIG = {}\n")
    return read_grid(file)


def maps_of(out):
    """All maps of a run, by folder of the cell and row."""
    return {cell.name: maps.read_maps(cell) for cell in sorted((out / "units").iterdir())}


@pytest.mark.parametrize("kind", maps.KINDS)
def test_maps_are_kept_in_half_precision(bare, tmp_path, kind):
    if kind == "zarr":
        pytest.importorskip("zarr")
    done(bare, tmp_path / "a", maps=kind)
    found, wanted = maps_of(tmp_path / "a"), results.read_plan(tmp_path / "a")["wanted"]
    (rows, _) = wanted.values()  # of either cell the same
    assert len(found) == 2 and all(sorted(kept) == sorted(rows) for kept in found.values())
    (cell,) = [cell for cell in bare.cells if cell.label == "IG"]
    kept = found[results.place(Path(), cell, [0]).parent.name]
    whole = compute(Worker(maps=True), cell, [*kept])
    assert all(A.dtype == torch.float16 for A in kept.values())
    torch.testing.assert_close(torch.stack([*kept.values()]), whole.maps, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", maps.KINDS)
def test_scores_that_are_there_have_their_maps(bare, tmp_path, monkeypatch, kind):
    """Killed between scores and maps, cut into shards, resumed: the maps of an undisturbed run."""
    if kind == "zarr":
        pytest.importorskip("zarr")
    done(bare, tmp_path / "whole", maps=kind)
    aside = results.write_aside

    def killed(path):
        if path.suffix == ".parquet" and path.parent.parent.name == "units":
            raise KeyboardInterrupt
        return aside(path)

    parts = [tmp_path / "s1", tmp_path / "s2"]
    for i, part in enumerate(parts, 1):
        monkeypatch.setattr(results, "write_aside", killed)
        with pytest.raises(KeyboardInterrupt):
            done(bare, part, shard=f"{i}/2", maps=kind)
        monkeypatch.undo()
        assert not [*results.unit_files(part)] and any(maps_of(part).values())
        done(bare, part, shard=f"{i}/2", maps=kind, block=1, resume=True)
    with pytest.raises(ValueError, match="begun with other maps"):
        done(bare, parts[0], shard="1/2", resume=True)
    results.merge(parts, tmp_path / "merged")
    whole, found = maps_of(tmp_path / "whole"), maps_of(tmp_path / "merged")
    assert whole.keys() == found.keys()
    for name, rows in whole.items():
        assert rows.keys() == found[name].keys()
        for row, A in rows.items():
            torch.testing.assert_close(A, found[name][row], atol=1e-6, rtol=1e-3)


def test_an_unknown_way_to_keep_maps_is_named(capsys):
    assert main(["benchmark", "digits", "--maps", "zar"]) == 2
    assert "Did you mean 'zarr'" in capsys.readouterr().err


@pytest.mark.skipif(
    "RAY_MUST_START" not in os.environ,
    reason="Ray starts a dozen processes of its own: `make ray`, every night",
)
def test_on_ray_a_lost_worker_s_block_comes_back(grid, tmp_path, monkeypatch):
    """Three actors on two cores, so one waits; one of the others dies of the first unit, a fourth
    is hired in its place, and no number changes."""
    ray = pytest.importorskip("ray")
    from manifold_xai.benchmark import cluster

    class Mortal(cluster.Hand):
        def compute(self, cell, rows):
            try:
                (tmp_path / "died").touch(exist_ok=False)
            except FileExistsError:
                return super().compute(cell, rows)
            os._exit(1)

    hired = []

    def hiring(worker):
        mortal = ray.remote(num_cpus=1)(Mortal)
        hired.append(mortal.remote(worker.root, str(worker.device), worker.maps))
        return hired[-1]

    monkeypatch.setattr(cluster, "hire", hiring)
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else actors starve beside other processes
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=10**8)
    try:
        there = done(grid, tmp_path / "a", engine="ray", workers=3, block=1)
    finally:
        ray.shutdown()
    here = done(grid, tmp_path / "b", block=1)
    assert (tmp_path / "died").exists() and len(hired) == 4
    assert_same(there, here)


def test_passes_are_counted_as_they_are_made(grid):
    """IG of T segments: T + 1 gradients a row at least; the measures' own are told apart."""
    worker = Worker()
    (cell,) = [c for c in grid.cells if c.label == "IG"]
    found = compute(worker, cell, [0, 1])
    assert found.passes["map: digits-smooth, gradient"] >= 2 * 5
    assert found.passes["measure: digits-smooth, forward"] >= 2 * (2 * 19 + 1)
