"""What a classroom without network gets: a lock file, and scripts that install nothing else."""

import base64
import hashlib
import shutil
import subprocess
import zipfile

import pytest
from helpers import ROOT

from manifold_xai.course import bundle
from manifold_xai.course.cli import main


def toy(folder, needs=">=3.11"):
    """A wheel with nothing but a command `manifold-xai` that prints its arguments."""
    about = f"Metadata-Version: 2.1\nName: toy\nVersion: 1.0\nRequires-Python: {needs}\n"
    files = {
        "toy.py": "import sys\ndef main(): print('asked', *sys.argv[1:])\n",
        "toy-1.0.dist-info/METADATA": about,
        "toy-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "toy-1.0.dist-info/entry_points.txt": "[console_scripts]\nmanifold-xai = toy:main\n",
    }
    record = ""
    for name, text in files.items():
        found = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        record += f"{name},sha256={found.decode()},{len(text)}\n"
    files["toy-1.0.dist-info/RECORD"] = record + "toy-1.0.dist-info/RECORD,,\n"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "toy-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)


@pytest.fixture
def made(tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "wheels", lambda root, folder, torch: toy(folder))
    words = ["bundle", str(tmp_path / "usb"), "--root", str(ROOT), "--chapters", "00"]
    assert main(words) == 0
    return tmp_path / "usb"


def installed(made):
    """install.sh, where no network can be reached."""
    words = ["unshare", "--user", "--map-root-user", "--net"]
    if subprocess.run([*words, "true"], capture_output=True).returncode:
        pytest.skip("no namespace without network is to be had here")
    script = ["sh", str(made / "install.sh"), str(made.parent / "seat")]
    return subprocess.run([*words, *script], capture_output=True, text=True)


def test_it_holds_notebooks_lock_and_scripts(made):
    assert (made / "lock.txt").read_text().startswith("toy==1.0 --hash=sha256:")
    assert (made / "course" / "nbs" / "00_tour.ipynb").exists()
    assert (made / "course" / "requirements" / "constraints.txt").exists()
    assert "--require-hashes" in (made / "install.ps1").read_text()


def test_it_installs_without_a_network_and_asks_the_doctor(made):
    done = installed(made)
    assert done.returncode == 0, done.stderr
    assert f"asked doctor --root {made / 'course'}" in done.stdout


@pytest.mark.parametrize("needs", [">=3.11.99", ">=3.8, >=3.99"])
def test_a_python_that_is_too_old_is_refused_before_anything_is_made(tmp_path, monkeypatch, needs):
    monkeypatch.setattr(bundle, "wheels", lambda root, folder, torch: toy(folder, needs))
    assert main(["bundle", str(tmp_path / "usb"), "--root", str(ROOT), "--chapters", "00"]) == 0
    done = installed(tmp_path / "usb")
    assert done.returncode and f"{needs[-4:].strip('=.')} or newer; this is 3." in done.stdout
    assert "PYTHON=" in done.stderr and not (tmp_path / "seat").exists()


def test_a_wheel_that_is_damaged_is_not_installed(made):
    with (made / "wheels" / "toy-1.0-py3-none-any.whl").open("ab") as wheel:
        wheel.write(b"x")
    done = installed(made)
    assert done.returncode and "DO NOT MATCH THE HASHES" in done.stderr


def test_a_folder_of_somebody_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("mine")
    assert main(["bundle", str(tmp_path), "--root", str(ROOT)]) == 2
    assert "holds other things" in capsys.readouterr().err


def test_what_pip_says_is_passed_on(tmp_path):
    shutil.copy(ROOT / "settings.ini", tmp_path)
    with pytest.raises(ValueError, match="could not collect the wheels"):
        bundle.wheels(tmp_path, tmp_path / "wheels")
