"""How mypy sees what a user writes: `make lint` reads this file, nothing runs it.

Where a call is wrong, mypy must say so: an `ignore` that nothing needs is an error, too.
"""

from typing import assert_type

import torch
from torch import Tensor

import manifold_xai
from manifold_xai import (
    Attribution,
    IntegratedGradients,
    Path,
    Saliency,
    Score,
    digits,
    heat_map,
    path_attribution,
    pullback_metric,
    score,
    straight_path,
)


def explain(model: torch.nn.Module, x: Tensor) -> Attribution:
    """What the README shows first."""
    f = score(model, target=3)
    gamma = straight_path(torch.zeros_like(x), x, steps=32)
    assert_type(f, Score)
    assert_type(gamma, Path)
    assert_type(path_attribution(f, gamma).A, Tensor)
    assert_type(pullback_metric(lambda z: z, x), Tensor)
    assert_type(heat_map(x), Tensor)
    assert_type(digits("test").x, Tensor)
    assert_type(manifold_xai.__version__, str)
    method = IntegratedGradients(model)
    assert_type(method.attribute(x, target=3), Tensor)
    assert_type(method.attribute((x, x), target=3), tuple[Tensor, ...])
    A, delta = method.attribute(x, n_steps=50, return_convergence_delta=True)
    assert_type(A, Tensor)
    assert_type(delta, Tensor)
    assert_type(Saliency(model).attribute(x), Tensor)
    return path_attribution(f, gamma)


def mistakes(x: Tensor) -> None:
    """Each of these is refused before it runs."""
    pullback_metric("decode", x)  # type: ignore[arg-type]
    path_attribution(x, x)  # type: ignore[arg-type]
    score(3)  # type: ignore[arg-type]
    IntegratedGradients(score).attribute(x, steps=50)  # type: ignore[call-overload]
    digits(part=7)  # type: ignore[arg-type]
    manifold_xai.no_such_name  # type: ignore[attr-defined]
