"""Every recipe of lesson 35 with every method that applies.

The model is not changed, and no row sees another.
"""

import gc
import json
import warnings

import pytest
import torch
from every import seeded
from foreign import autoencoder, same, state_of
from helpers import ROOT

from manifold_xai import IntegratedGradients, InputXGradient, SmoothGrad, catalogue
from manifold_xai.door import reachable

HELP = {"exercise", "stub", "check", "hint", "half", "solution", "figure"}


@pytest.fixture(scope="module")
def recipes() -> dict:
    """name -> (f, x), as the lesson's own cells made and checked them."""
    cells = json.loads((ROOT / "nbs/35_your_model.ipynb").read_text(encoding="utf8"))["cells"]
    page, dtype = {}, torch.get_default_dtype()
    try:
        for cell in cells:
            if cell["cell_type"] == "code" and not HELP & set(cell["metadata"].get("tags", [])):
                exec("".join(cell["source"]), page)
    finally:
        torch.set_default_dtype(dtype)
    return page["recipes"]


RECIPES = [
    "time series",
    "object",
    "ViT",
    "segmentation",
    "one logit",
    "tabular",
    "text",
    "two inputs",
    "volume",
    "image and prompts",
]


def test_these_are_the_recipes(recipes):
    assert set(recipes) == set(RECIPES)


def methods(f, x, generator=None):
    """What applies, with an autoencoder and references of the inputs' own kind."""
    if isinstance(x, tuple):
        coder, references = None, tuple(v.flip(0) + 0.1 for v in x)
    else:
        coder = autoencoder(tuple(x.shape[1:]), x[0].numel())
        references = x.flip(0) * 0.7
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return catalogue(f, coder, steps=3, generator=generator, references=references, x=x)


def parts(x):
    return x if isinstance(x, tuple) else (x,)


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize("name", RECIPES)
def test_no_method_changes_anything(recipes, name):
    f, x = recipes[name]
    models = reachable(f)
    assert models
    for model in models:
        for i, p in enumerate(model.parameters()):
            p.grad = torch.full_like(p, float(i))
    kept = tuple(v.clone() for v in parts(x))
    target = None if name in ("time series", "one logit") else 1
    found = methods(f, x)
    assert len(found) >= 6
    for method, ask in found.items():
        before = state_of(*models)
        try:
            A = ask(x, target)
        except ValueError as error:  # an untrained model may put all references in one class
            assert method == "IG2" and "other classes" in str(error), error
            continue
        finally:
            assert same(before, state_of(*models)), method
        assert all(map(torch.equal, kept, parts(x))), method
        assert all(v.grad is None and not v.requires_grad for v in parts(x)), method
        assert all(a.shape == v.shape and a.isfinite().all() for a, v in zip(parts(A), parts(x)))
        assert not any(a.requires_grad for a in parts(A))
    for model in models:
        model.zero_grad()


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize("name", RECIPES)
def test_a_row_alone_gets_the_map_that_it_has_in_company(recipes, name):
    f, x = recipes[name]
    target = None if name in ("time series", "one logit") else 1
    first = tuple(v[:1] for v in x) if isinstance(x, tuple) else x[:1]
    generator = seeded()
    for method, ask in methods(f, x, generator).items():
        if method == "IG2":
            continue
        A = parts(ask(x, target))
        generator.manual_seed(0)  # the first row draws alike
        own = parts(ask(first, target))
        generator.manual_seed(0)
        scale = max(v.abs().max() for v in own)
        assert all((a[:1] - b).abs().max() <= 1e-7 * scale for a, b in zip(A, own)), method


def test_what_is_left_out_is_said(recipes):
    out = {name: catalogue(f, x=x).left_out for name, (f, x) in recipes.items()}
    for name in ("time series", "tabular", "text", "volume", "two inputs"):
        assert "BlurIG" in out[name], name
    assert "BlurIG" not in out["ViT"]
    assert "other classes" in out["one logit"]["AGI"]
    assert out["ViT"]["EIG"] == "it needs an autoencoder"
    assert "holds 2" in out["two inputs"]["EIG"]
    f, x = recipes["ViT"]
    strange = autoencoder((1, 5, 5), 25)
    assert "cannot code" in catalogue(f, strange, x=x).left_out["MIG"]
    assert "EIG" in catalogue(f, autoencoder((3, 8, 8), 192), x=x)
    assert "left out: BlurIG" in repr(catalogue(*[recipes["text"][0]], x=recipes["text"][1]))


def tensors_alive():
    gc.collect()
    return sum(type(o) is torch.Tensor for o in gc.get_objects())


@pytest.mark.parametrize("how", ["several inputs", "several classes"])
@pytest.mark.parametrize("method", [IntegratedGradients, InputXGradient, SmoothGrad])
def test_memory_is_flat_over_fifty_calls(recipes, method, how):
    f, x = recipes["two inputs" if how == "several inputs" else "ViT"]
    options = dict(samples=2) if method is SmoothGrad else {}
    m = method(f, **options)
    x = tuple(v[:1] for v in x) if isinstance(x, tuple) else x[:1]
    given = dict(targets=[0, 1]) if how == "several classes" else dict(target=1)
    given |= dict(n_steps=2) if method is IntegratedGradients else {}
    for _ in range(3):
        m.attribute(x, **given)
    before = tensors_alive()
    for _ in range(50):
        m.attribute(x, **given)
    assert tensors_alive() <= before


class Heavy(torch.nn.Module):
    """Notes the most bytes of tensors alive at once while it runs."""

    def __init__(self):
        super().__init__()
        self.most = 0
        self.conv = torch.nn.Conv2d(1, 1, 3, 4).requires_grad_(False)

    def forward(self, x, other=0.0):
        tensors = [t for t in gc.get_objects() if type(t) is torch.Tensor]
        held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        self.most = max(self.most, sum(held.values()))
        return torch.stack([self.conv(x).mean((1, 2, 3)), x[:, 0, 0, 0]], 1) + other


@pytest.mark.parametrize("how", ["two classes", "two inputs"])
def test_an_image_of_2000_pixels_squared_keeps_within_the_chunk_budget(how):
    x, model = torch.rand(1, 1, 2000, 2000, generator=seeded()), Heavy().eval()
    row = torch.rand(1, 2, generator=seeded(1))
    model(x[:, :, :8, :8])
    floor, model.most = model.most, 0
    if how == "two classes":  # each point twice, gradients of both
        IntegratedGradients(model).attribute(x, targets=[0, 1], n_steps=2)
    else:
        IntegratedGradients(model).attribute((x, row), target=0, n_steps=2)
    assert (model.most - floor) / x.nbytes <= 32  # one class of one image: 16
