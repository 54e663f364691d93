"""Ask published implementations about a small setting; answers go to tests/golden.safetensors.

    python tests/make_golden.py PATH

PATH is a clone of github.com/leekwoon/ma-gig; Guided IG with a corridor comes from the `saliency`
package. Nothing of their code is kept: the file holds random networks and images, and numbers.
The setting is well conditioned: weights and pixels moved by 1e-15 move no answer by 1e-12.
"""

import argparse
import platform
import subprocess
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from helpers import published_networks, seeded
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

GOLDEN = Path(__file__).with_name("golden.safetensors")
POINTS, SWEEP_POINTS = 50, 20
CORRIDORS = (0.02, 1.0)
LAYERS = {  # shape and size of the weights; 40 latents: ⌊5 % of 40⌋ and ⌊5 % of 39⌋ differ
    "classifier.0": ((4, 1, 3, 3), 1.0),
    "classifier.2": ((8, 4, 3, 3), 0.4),
    "classifier.5": ((10, 32), 0.5),
    "encoder.0": ((4, 1, 4, 4), 0.5),
    "encoder.2": ((8, 4, 4, 4), 0.3),
    "encoder.5": ((40, 32), 0.5),
    "decoder.0": ((32, 40), 0.4),
    "decoder.3": ((8, 4, 4, 4), 0.5),
    "decoder.5": ((4, 1, 4, 4), 0.9),
}
TRANSPOSED = ("decoder.3", "decoder.5")


def setting(seed: int = 0) -> dict[str, Tensor]:
    """Smooth random networks, 8×8 images with a quarter of the pixels black, different classes."""
    randn = partial(torch.randn, generator=seeded(seed), dtype=torch.float64)
    given = {}
    for name, (shape, size) in LAYERS.items():
        given[f"{name}.weight"] = size * randn(*shape)
        given[f"{name}.bias"] = 0.1 * randn(shape[name in TRANSPOSED])
    images = (2 * avg_pool2d(randn(72, 1, 10, 10), 3, 1) + 0.3).clamp(0, 1)
    images = dict(zip(("x", "reference", "diffid.images"), images.split([4, 4, 64])))
    given |= images | {"diffid.attribution": randn(64, 1, 8, 8)}
    classify = published_networks(given)[0]
    classify[-1].bias -= classify(given["diffid.images"]).mean(0)  # else one class wins everywhere
    given["classifier.5.bias"] = classify[-1].bias
    given["target"] = classify(given["x"]).argmax(1)
    given["diffid.labels"] = classify(given["diffid.images"]).argmax(1)
    return given


def asked(explainer, given: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Map and path of each image, one at a time: in a batch the release guides all by their sum."""
    from cleanig.explainer import ig

    maps, paths = [], []
    for x, target in zip(given["x"].split(1), given["target"].split(1)):
        path = explainer.path_generator.get_paths(x, target)
        with patch.object(Tensor, "float", Tensor.double):  # it would round gradients to float32
            maps.append(ig.compute_ig(explainer.model, path, target, explainer.exp_obj))
        paths.append(path)
    return torch.cat(maps), torch.cat(paths)


def path_answers(given: dict[str, Tensor], classify: nn.Module, vae: nn.Module) -> dict:
    """IG, Guided IG, EIG, MIG and MA-GIG, with the options named in the release."""
    from cleanig import explainer as e

    # its black baseline is float32, and passes through preprocess_fn
    shared = dict(baseline_method="zero", device="cpu", preprocess_fn=Tensor.double)
    line = dict(num_steps=POINTS, **shared)
    pixels, latents = dict(fraction=0.1, **line), dict(fraction=0.05, **line)
    sweeps = dict(num_steps=SWEEP_POINTS, alpha=1e-3, max_iterations=10, epsilon=0.0, **shared)
    explainers = {
        "ig": e.IGExplainer(classify, **line),
        "gig.prob": e.GIGExplainer(classify, exp_obj="prob", **pixels),
        "gig.logit": e.GIGExplainer(classify, exp_obj="logit", **pixels),
        "eig": e.EIGExplainer(classify, vae, **line),
        "mig": e.MIGExplainer(classify, vae, **sweeps),
        "ma_gig": e.LatentGIGExplainer(classify, vae, **latents),
        "ma_gig_slerp": e.LatentGIGExplainer(classify, vae, use_slerp=True, **latents),
    }
    answers = {}
    for key, explainer in explainers.items():
        answers[f"{key}.attribution"], path = asked(explainer, given)
        if key not in ("ig", "eig"):
            answers[f"{key}.path"] = path if key == "mig" else path[:, ::7]
    with patch.object(Tensor, "float", Tensor.double):  # the angles, which it takes in float32
        answers["ma_gig_slerp.precise"], _ = asked(explainers["ma_gig_slerp"], given)
    return answers


def outward_answers(given: dict[str, Tensor], classify: nn.Module) -> dict[str, Tensor]:
    """Input × gradient, IG2 and AGI of the release; its AGI adds up over the nine other classes."""
    from cleanig import explainer as e

    named = nn.Module()  # IG2 finds the last layer by its name
    named.fc, named.forward = classify[-1], classify.forward
    ig2 = e.IG2Explainer(named, "cpu", steps=15, step_size=0.1, reference_mode="first")
    to_each = dict(num_classes=11, num_neg_cls=11)  # 0…9: it leaves out the last
    agi = e.AGIExplainer(classify, "cpu", step_size=0.05, max_iter=15, **to_each)
    agi.mean, agi.std = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)  # it was written for colour
    product = e.GradInputExplainer(classify, "cpu", preprocess_fn=Tensor.double)
    maps = dict(ig2=[], agi=[], input_x_gradient=[])
    for x, reference, target in zip(*(given[key].split(1) for key in ("x", "reference", "target"))):
        ig2.set_reference_bank(reference)
        maps["ig2"].append(ig2.get_attributions(x, target))
        maps["agi"].append(agi.get_attributions(x, target))
        maps["input_x_gradient"].append(product.get_attributions(x, target))
    return {f"{key}.attribution": torch.cat(parts) for key, parts in maps.items()}


def diffid_answers(given: dict[str, Tensor], classify: nn.Module) -> dict[str, Tensor]:
    """DiffID's two curves, counted hard and soft."""
    from cleanig.metric.diffid import compute_diffid_score

    batch = [given[f"diffid.{name}"] for name in ("images", "attribution", "labels")]
    answers = {}
    for key, soft in (("hard", False), ("soft", True)):
        curves = compute_diffid_score(classify, *batch, use_soft_metric=soft, return_curves=True)[1]
        for side in ("insertion", "deletion"):
            answers[f"diffid.{key}.{side}"] = torch.tensor(curves[f"{side}_scores"])
    return answers


def pair_answers(given: dict[str, Tensor], classify: nn.Module) -> dict[str, Tensor]:
    """Maps of Guided IG by the `saliency` package, with a corridor and without one."""
    from saliency.core import INPUT_OUTPUT_GRADIENTS, GuidedIG

    def gradients(x, call_model_args, expected_keys):
        x = torch.from_numpy(x).requires_grad_()
        (grad,) = torch.autograd.grad(classify(x).softmax(1)[:, call_model_args].sum(), x)
        return {INPUT_OUTPUT_GRADIENTS: grad.numpy()}

    def quantile(a, q, interpolation, now=np.quantile):  # what `method` was called before NumPy 2.4
        return now(a, q, method=interpolation)

    answers = {}
    for max_dist in CORRIDORS:
        how = dict(x_steps=POINTS, fraction=0.05, max_dist=max_dist)
        with patch.object(np, "quantile", quantile):
            rows = zip(given["x"].numpy(), given["target"].tolist())
            maps = [GuidedIG().GetMask(x, gradients, target, **how) for x, target in rows]
        answers[f"pair_gig.max_dist_{max_dist}.attribution"] = torch.from_numpy(np.stack(maps))
    return answers


def answered(given: dict[str, Tensor], bend: type = nn.SiLU) -> dict[str, Tensor]:
    """Every answer of the published implementations on a setting."""
    classify, encode, decode = published_networks(given, bend)
    vae = nn.Module()
    vae.encode, vae.decode = encode, decode
    answers = path_answers(given, classify, vae) | outward_answers(given, classify)
    return answers | diffid_answers(given, classify) | pair_answers(given, classify)


def head(path: Path) -> str:
    """The commit that a clone is at."""
    asked_git = ["git", "-C", str(path), "rev-parse", "HEAD"]
    return subprocess.run(asked_git, capture_output=True, text=True, check=True).stdout.strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, help="a clone of github.com/leekwoon/ma-gig")
    parser.add_argument("--commit", help="its commit, where PATH is no clone")
    args = parser.parse_args()
    sys.path.insert(0, str(args.path))
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    commit = args.commit or head(args.path)
    given = setting()
    about = dict(
        command="python tests/make_golden.py PATH",
        ma_gig=f"github.com/leekwoon/ma-gig at {commit}",
        python=platform.python_version(),
        **{name: version(name) for name in ("saliency", "torch", "numpy")},
    )
    tensors = {key: value.contiguous() for key, value in (given | answered(given)).items()}
    save_file(tensors, GOLDEN, about)
    print(f"{GOLDEN}: {GOLDEN.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
