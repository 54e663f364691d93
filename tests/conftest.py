"""What several test files share: the published codes' own answers, where those are at hand, and the networks they were given for."""
import importlib.util
import os
from pathlib import Path
from types import ModuleType

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch loads: spinning threads starve each other

import pytest
from safetensors.torch import load_file
from torch import Tensor, nn

from manifold_xai.subjects.data import Images, digits

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT.parent / "shared" / "golden" / "official.safetensors"  # not part of the repository


@pytest.fixture(scope="session")
def answers() -> dict[str, Tensor]:
    if not GOLDEN.exists():
        pytest.skip(f"the published codes' answers are not at {GOLDEN}")
    return load_file(GOLDEN)


@pytest.fixture(scope="session")
def published(answers) -> list[nn.Module]:
    """Classifier, encoder and decoder that the published codes were run on."""
    conv = nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10)
    down = nn.Conv2d(1, 8, 4, 2, 1), nn.SiLU(), nn.Conv2d(8, 16, 4, 2, 1), nn.SiLU(), nn.Flatten(), nn.Linear(1024, 24)
    up = nn.Linear(24, 1024), nn.ELU(), nn.Unflatten(1, (16, 8, 8)), nn.ConvTranspose2d(16, 8, 4, 2, 1), nn.ELU()
    up += nn.ConvTranspose2d(8, 1, 4, 2, 1), nn.Sigmoid()
    models = [nn.Sequential(*layers).double().eval().requires_grad_(False) for layers in (conv, down, up)]
    for name, model in zip(("classifier.", "encoder.", "decoder."), models):
        model.load_state_dict({k.removeprefix(name): v for k, v in answers.items() if k.startswith(name)})
    return models


@pytest.fixture(scope="session")
def held_out() -> Images:
    """The held-out digits."""
    return digits("test")


@pytest.fixture(scope="session")
def bench() -> ModuleType:
    """benchmarks/guided.py as a module: its loop is the published form that ours is timed against."""
    spec = importlib.util.spec_from_file_location("bench_guided", ROOT / "benchmarks" / "guided.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
