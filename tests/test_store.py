"""Nothing half-written looks complete; nothing damaged or foreign is read."""

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from manifold_xai.files import data_root, write_aside
from manifold_xai.subjects.store import digest, load_tensors, save_tensors, trained

SETTINGS = {"width": 2, "seed": 0}


def teach(model):
    nn.init.ones_(model.weight)
    return {"loss": 0.5}


@pytest.fixture
def file(tmp_path):
    save_tensors(
        tmp_path / "w.safetensors",
        {"w": torch.arange(40.0).reshape(5, 8), "n": torch.tensor(3)},
        {"epochs": 2},
    )
    return tmp_path / "w.safetensors"


def test_what_is_saved_is_what_is_loaded(file):
    tensors, card = load_tensors(file)
    assert torch.equal(tensors["w"], torch.arange(40.0).reshape(5, 8))
    assert tensors["n"].item() == 3
    assert card == {"epochs": 2}


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool]
)
def test_every_type_is_kept(tmp_path, dtype):
    save_tensors(
        tmp_path / "a",
        {"x": torch.tensor([0, 1, 2]).to(dtype), "empty": torch.zeros(0, 3, dtype=dtype)},
    )
    tensors, _ = load_tensors(tmp_path / "a")
    assert tensors["x"].dtype == dtype and tensors["empty"].shape == (0, 3)


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_any_changed_byte_is_noticed(tmp_path_factory, place, change):
    folder = tmp_path_factory.mktemp("bytes")
    save_tensors(folder / "a", {"w": torch.arange(6.0)}, {"epochs": 2})
    data = bytearray((folder / "a").read_bytes())
    data[place % len(data)] ^= change
    (folder / "b").write_bytes(data)
    try:
        tensors, card = load_tensors(folder / "b")
    except ValueError as error:
        assert str(folder / "b") in str(error)
    else:
        assert torch.equal(tensors["w"], torch.arange(6.0)) and card == {"epochs": 2}


@given(st.binary(max_size=200))
def test_any_file_is_refused_by_name(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("bytes") / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="w.safetensors"):
        load_tensors(path)


META = st.dictionaries(
    st.sampled_from(["card", "seal", "sha256"]),
    st.sampled_from(["", "{}", "[]", "null", "{", "[" * 5000, '{"a": NaN}', "x" * 64]),
)


@given(META)
def test_any_header_is_refused_by_name(tmp_path_factory, meta):
    """Whole safetensors files, with cards and seals that are not ours."""
    path = tmp_path_factory.mktemp("header") / "w.safetensors"
    save_file({"w": torch.zeros(3)}, path, meta)
    with pytest.raises(ValueError, match="w.safetensors"):
        load_tensors(path)


def test_the_card_is_sealed_with_the_tensors(tmp_path):
    """Otherwise a good model's file with changed settings would pass for another model's."""
    save_tensors(tmp_path / "a", {"w": torch.zeros(3)}, {"epochs": 2})
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes().replace(b"epochs", b"epochS"))
    with pytest.raises(ValueError, match="SHA-256 differs"):
        load_tensors(tmp_path / "a")


def test_files_of_version_0_1_are_read(tmp_path):
    tensors = {"w": torch.arange(3.0)}
    save_file(tensors, tmp_path / "a", {"card": '{"epochs": 2}', "sha256": digest(tensors)})
    assert load_tensors(tmp_path / "a")[1] == {"epochs": 2}


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 7, b"<html>not found</html>", b"PK\x03\x04 a pickle"]
)
def test_foreign_files_are_refused_by_name(tmp_path, content):
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="w.safetensors is not a readable"):
        load_tensors(tmp_path / "w.safetensors")


def test_truncated_file_is_refused(file):
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ValueError, match="w.safetensors"):
        load_tensors(file)


def test_safetensors_of_somebody_else_are_refused(tmp_path):
    save_file({"w": torch.zeros(3)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="SHA-256 differs"):
        load_tensors(tmp_path / "w.safetensors")


def test_digest_tells_apart_name_type_and_shape():
    x = torch.zeros(4)
    assert (
        len(
            {
                digest(t)
                for t in ({"a": x}, {"b": x}, {"a": x.reshape(2, 2)}, {"a": x.int()}, {"a": x + 1})
            }
        )
        == 5
    )


def test_half_written_files_leave_the_old_one(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(KeyboardInterrupt), write_aside(tmp_path / "a") as aside:
        aside.write_text("ha")
        raise KeyboardInterrupt
    assert (tmp_path / "a").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_two_writers_at_once_use_two_files(tmp_path):
    def write(word):
        for _ in range(50):
            with write_aside(tmp_path / "a") as aside:
                aside.write_text(word * 1000)

    threads = [threading.Thread(target=write, args=(word,)) for word in ("x", "y")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a").read_text() in ("x" * 1000, "y" * 1000)
    assert len(list(tmp_path.iterdir())) == 1


def test_trained_once_then_loaded(tmp_path, capsys):
    a = trained("line", nn.Linear(2, 1), teach, SETTINGS, root=tmp_path)
    b = trained("line", nn.Linear(2, 1), pytest.fail, SETTINGS, root=tmp_path)
    assert torch.equal(a.weight, b.weight) and not b.training and not b.weight.requires_grad
    out = capsys.readouterr().out
    assert "line: trained in" in out and "line: loaded from" in out


def test_other_settings_other_weights(tmp_path):
    trained("line", nn.Linear(2, 1), teach, SETTINGS, root=tmp_path)
    calls = []
    trained(
        "line",
        nn.Linear(2, 1),
        lambda m: calls.append(1) or {},
        SETTINGS | {"seed": 1},
        root=tmp_path,
    )
    assert calls == [1] and len(list(tmp_path.glob("weights/*.safetensors"))) == 2


def test_damaged_weights_are_refused_and_not_retrained_over(tmp_path):
    trained("line", nn.Linear(2, 1), teach, SETTINGS, root=tmp_path)
    (path,) = tmp_path.glob("weights/*.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(ValueError, match=path.name):
        trained("line", nn.Linear(2, 1), pytest.fail, SETTINGS, root=tmp_path)


def test_weights_of_another_model_are_refused(tmp_path):
    trained("line", nn.Linear(2, 1), teach, SETTINGS, root=tmp_path)
    with pytest.raises(ValueError, match="another model"):
        trained("line", nn.Linear(3, 1), pytest.fail, SETTINGS, root=tmp_path)


def test_weights_made_with_other_settings_are_refused_though_they_fit(tmp_path):
    """The same shapes under the name of other settings, as a copied file would be."""
    trained("line", nn.Linear(2, 1), teach, SETTINGS, root=tmp_path)
    (made,) = tmp_path.glob("weights/*.safetensors")
    trained("line", nn.Linear(2, 1), teach, SETTINGS | {"seed": 1}, root=tmp_path)
    (other,) = set(tmp_path.glob("weights/*.safetensors")) - {made}
    made.replace(other)
    with pytest.raises(ValueError, match="other settings"):
        trained("line", nn.Linear(2, 1), pytest.fail, SETTINGS | {"seed": 1}, root=tmp_path)


@pytest.mark.parametrize(
    "value, why",
    [
        (float("nan"), "NaN or infinite"),
        (float("inf"), "NaN or infinite"),
        (1e5, "too large for half precision"),
    ],
)
def test_weights_that_are_not_finite_are_not_kept(tmp_path, value, why):
    def diverge(model):
        nn.init.constant_(model.weight, value)
        return {}

    with pytest.raises(ValueError, match=f"line: training left values in weight that are {why}"):
        trained("line", nn.Linear(2, 1), diverge, SETTINGS, root=tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_not_read(tmp_path, value):
    trained("line", nn.Linear(2, 1), teach, SETTINGS, root=tmp_path)
    (path,) = tmp_path.glob("weights/*.safetensors")
    tensors, card = load_tensors(path)
    save_tensors(path, tensors | {"weight": torch.full((1, 2), value).half()}, card)
    with pytest.raises(
        ValueError, match=f"{path.name} holds values that are NaN or infinite, in weight"
    ):
        trained("line", nn.Linear(2, 1), pytest.fail, SETTINGS, root=tmp_path)


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path):
    killed = subprocess.Popen([sys.executable, "-c", KILLED, tmp_path / "a"], env=os.environ)
    assert killed.wait() == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.endswith(".part") and left.read_text() == "half"
    with write_aside(
        tmp_path / "b"
    ) as aside:  # so soon, it might be a slow writer on another machine
        aside.write_text("whole")
    assert left.exists()
    os.utime(left, (time.time() - 100,) * 2)
    with write_aside(tmp_path / "b") as aside:
        aside.write_text("whole")
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


KILLED = """
import os, signal, sys
from manifold_xai.files import write_aside
with write_aside(sys.argv[1]) as aside:
    aside.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_slow_writer_that_lives_keeps_its_file(tmp_path):
    with write_aside(tmp_path / "a") as slow:
        slow.write_text("slow")
        os.utime(slow, (time.time() - 3600,) * 2)
        with write_aside(tmp_path / "b") as aside:
            aside.write_text("quick")
    assert (tmp_path / "a").read_text() == "slow"


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_files_get_the_rights_that_the_umask_leaves(tmp_path, umask):
    before = os.umask(umask)
    try:
        trained("line", nn.Linear(2, 1), teach, SETTINGS, root=tmp_path / "root")
    finally:
        os.umask(before)
    (path,) = tmp_path.glob("root/weights/*.safetensors")
    assert (
        stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
        and stat.S_IMODE(path.parent.stat().st_mode) == 0o777 & ~umask
    )


def as_nobody(task) -> str:
    """What a task returns in a process of another user."""
    if os.geteuid():
        pytest.skip("only root can become another user")
    read, write = os.pipe()
    if not (pid := os.fork()):
        said = "nothing"
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            said = str(task())
        except BaseException as error:
            said = f"{type(error).__name__} {error}"
        finally:
            os.write(write, said.encode())
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    with open(read) as pipe:
        return pipe.read()


def test_a_second_user_reads_what_the_first_trained_and_is_told_what_he_may_not():
    with tempfile.TemporaryDirectory(
        dir="/tmp"
    ) as root:  # pytest's own folders are closed to others
        Path(root).chmod(0o755)
        trained("line", nn.Linear(2, 1), teach, SETTINGS, root=root)
        read = as_nobody(
            lambda: (
                trained("line", nn.Linear(2, 1), pytest.fail, SETTINGS, root=root)
                .weight.sum()
                .item()
            )
        )
        refused = as_nobody(
            lambda: trained("line", nn.Linear(2, 1), teach, SETTINGS | {"seed": 1}, root=root)
        )
    assert read == "2.0"
    assert (
        refused.startswith("PermissionError")
        and "is not yours to write (Permission denied). Ask its owner" in refused
    )


def test_interrupted_training_leaves_nothing_that_looks_trained(tmp_path):
    def interrupted(model):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained("line", nn.Linear(2, 1), interrupted, SETTINGS, root=tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))
    trained("line", nn.Linear(2, 1), teach, SETTINGS, root=tmp_path)


def test_shipped_weights_serve_their_settings_only(tmp_path, monkeypatch, capsys):
    trained("line", nn.Linear(2, 1), teach, SETTINGS, root=tmp_path)
    (path,) = tmp_path.glob("weights/*.safetensors")
    path.rename(tmp_path / "line.safetensors")
    monkeypatch.setattr("manifold_xai.subjects.store.SHIPPED", tmp_path)
    trained("line", nn.Linear(2, 1), pytest.fail, SETTINGS, root=tmp_path / "none")
    assert "shipped" in capsys.readouterr().out
    for ask in (
        {"settings": SETTINGS | {"seed": 1}},
        {"settings": SETTINGS, "retrain": tmp_path / "anew"},
    ):
        trained("line", nn.Linear(2, 1), teach, root=tmp_path / "none", **ask)
        assert "trained in" in capsys.readouterr().out


def test_two_that_need_the_same_weights_train_them_once(tmp_path):
    calls = []

    def slow(model):
        calls.append(time.sleep(0.3))
        return teach(model)

    threads = [
        threading.Thread(
            target=trained,
            args=("line", nn.Linear(2, 1), slow, SETTINGS),
            kwargs={"root": tmp_path},
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


def test_card_holds_settings_and_figures(tmp_path):
    trained("line", nn.Linear(2, 1), teach, SETTINGS, root=tmp_path)
    (path,) = tmp_path.glob("weights/*.safetensors")
    assert load_tensors(path)[1] == {
        "name": "line",
        "settings": json.loads(json.dumps(SETTINGS)),
        "loss": 0.5,
    }


def test_argument_wins_over_environment_over_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MANIFOLD_XAI_DATA", str(tmp_path / "env"))
    assert data_root(tmp_path / "arg") == tmp_path / "arg" and data_root() == tmp_path / "env"
    monkeypatch.delenv("MANIFOLD_XAI_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data_root() == tmp_path / "cache" / "manifold_xai"
