"""Fixtures of several test files: what published implementations answered, digits, benchmarks."""

import importlib.util
import os
from types import ModuleType

# before torch loads: threads that spin while they wait starve each other
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
from helpers import BENCHMARKS, ROOT, SHARED, published_networks
from safetensors.torch import load_file
from torch import Tensor, nn

from manifold_xai.subjects.classifiers import digit_classifier
from manifold_xai.subjects.data import Images, digits


def pytest_ignore_collect(collection_path, config):
    """The tests on a device have a process of their own: `pytest tests/device`."""
    asked = any("device" in word for word in config.args)
    return True if collection_path == ROOT / "tests" / "device" and not asked else None


GOLDEN = {  # the file with the answers, and the activation after the classifier's convolutions
    "shipped": (ROOT / "tests" / "golden.safetensors", nn.SiLU),
    "whole": (SHARED / "golden" / "official.safetensors", nn.ReLU),
}


@pytest.fixture(scope="session", params=GOLDEN)
def golden(request) -> tuple[dict[str, Tensor], list[nn.Module]]:
    """A setting with the published implementations' answers, classifier, encoder and decoder."""
    path, bend = GOLDEN[request.param]
    if request.param == "whole" and not path.exists():
        pytest.skip(f"the whole of the published codes' answers is not at {path}")
    answers = load_file(path)
    return answers, published_networks(answers, bend)


@pytest.fixture(scope="session")
def answers(golden) -> dict[str, Tensor]:
    """The published implementations' answers, beside what they were asked about."""
    return golden[0]


@pytest.fixture(scope="session")
def published(golden) -> list[nn.Module]:
    """Classifier, encoder and decoder that the published implementations were run on."""
    return golden[1]


@pytest.fixture(scope="session")
def held_out() -> Images:
    """The held-out digits."""
    return digits("test")


@pytest.fixture(scope="module")
def smooth() -> nn.Module:
    """The smooth classifier of digits that ships."""
    return digit_classifier("smooth")


@pytest.fixture(scope="session")
def bench() -> ModuleType:
    """benchmarks/guided.py as a module: its loops are the published form, one row at a time."""
    spec = importlib.util.spec_from_file_location("bench_guided", BENCHMARKS / "guided.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
