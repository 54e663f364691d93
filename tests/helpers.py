"""What the tests share besides fixtures: paths, random numbers, a measure and small networks."""

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
SHARED = ROOT.parent / "shared"  # not part of the repository; tests of what is in it may skip


def seeded(seed: int = 0) -> torch.Generator:
    """A separate generator, so that no test depends on what another has drawn."""
    return torch.Generator().manual_seed(seed)


def rand(*shape: int, seed: int = 0) -> Tensor:
    """Uniform in [0, 1), float64."""
    return torch.rand(*shape, generator=seeded(seed), dtype=torch.float64)


def randn(*shape: int, seed: int = 0) -> Tensor:
    """Normal, float64."""
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def relative(A: Tensor, B: Tensor) -> float:
    """Largest difference, as a share of the largest entry of B."""
    return ((A - B).abs().max() / B.abs().max()).item()


def documented(doc: str | None) -> set[str]:
    """Names of arguments that a docstring lists under `Parameters:`.

    Parameters:
        doc: the docstring, its indentation removed; None for none
    """
    said = re.search(r"^Parameters:\n((?: .*\n?)+)", doc or "", re.M)
    lines = said[1] if said else ""
    return {*re.findall(r"\w+", " ".join(re.findall(r"^    (\S[^:]*):", lines, re.M)))}


def small_net(bends: tuple[nn.Module, nn.Module]) -> nn.Sequential:
    """Five classes of images (b, 1, 12, 12), float64 and frozen; a bend after each convolution."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(1, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)
    layers = first, bends[0], second, bends[1], nn.Flatten(), nn.Linear(54, 5)
    return nn.Sequential(*layers).double().eval().requires_grad_(False)


def benchmark(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A script of benchmarks/ as a module; it imports its neighbours, and they need captum."""
    pytest.importorskip("captum")
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module(name)


def published_networks(answers: dict[str, Tensor], bend: type = nn.SiLU) -> list[nn.Module]:
    """Classifier, encoder and decoder that the published implementations answered for.

    Parameters:
        answers: holds their weights, from which their widths are read
        bend: what follows the classifier's convolutions
    """
    narrow, wide = answers["encoder.0.weight"].shape[0], answers["encoder.2.weight"].shape[0]
    latents, features = answers["encoder.5.weight"].shape
    side = round((features / wide) ** 0.5)
    models = dict(
        classifier=nn.Sequential(
            *(nn.Conv2d(1, narrow, 3, 2, 1), bend()),
            *(nn.Conv2d(narrow, wide, 3, 2, 1), bend()),
            *(nn.Flatten(), nn.Linear(features, 10)),
        ),
        encoder=nn.Sequential(
            *(nn.Conv2d(1, narrow, 4, 2, 1), nn.SiLU()),
            *(nn.Conv2d(narrow, wide, 4, 2, 1), nn.SiLU()),
            *(nn.Flatten(), nn.Linear(features, latents)),
        ),
        decoder=nn.Sequential(
            *(nn.Linear(latents, features), nn.ELU(), nn.Unflatten(1, (wide, side, side))),
            *(nn.ConvTranspose2d(wide, narrow, 4, 2, 1), nn.ELU()),
            *(nn.ConvTranspose2d(narrow, 1, 4, 2, 1), nn.Sigmoid()),
        ),
    )
    for name, model in models.items():
        parts = {key.split(".", 1)[1]: v for key, v in answers.items() if key.split(".")[0] == name}
        model.double().eval().requires_grad_(False).load_state_dict(parts)
    return list(models.values())


def works_inside_captum(method, model: nn.Module, x: Tensor, y: Tensor) -> None:
    """captum's noise tunnel and metrics accept the method as one of captum's own."""
    from captum.attr import NoiseTunnel
    from captum.metrics import infidelity, sensitivity_max

    asked = dict(target=y, n_steps=5)
    smoothed = NoiseTunnel(method).attribute(x, nt_samples=2, stdevs=0.05, **asked)
    assert smoothed.shape == x.shape
    A = method.attribute(x, **asked)
    shaken = infidelity(model, lambda x: (0.1 * torch.randn_like(x),) * 2, x, A, target=y)
    assert shaken.isfinite().all()
    moved = sensitivity_max(method.attribute, x, n_perturb_samples=2, **asked)
    assert moved.isfinite().all()
