"""On a device that is the CPU under another name (tests/device) everything gives the CPU's
numbers, builds nothing elsewhere, and hardly ever makes the host wait.

What would stop on a GPU stops there: a tensor of each device in one operator, the CPU's generator
for a draw on the device, NumPy of a device tensor. These tests have a process of their own: a
device must be known before PyTorch's first backward pass.

MANIFOLD_XAI_TEST_DEVICE=cuda asks the same of a real one; only waits cannot be counted there.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from every import EVERY, steps_of
from helpers import rand, randn, seeded, small_net
from seen import noted
from torch import Tensor, nn
from where import NAME

import manifold_xai as m
from manifold_xai.geometry.solvers import SOLVERS
from manifold_xai.subjects.data import Images
from manifold_xai.subjects.generated import generate

CPU = torch.device("cpu")
counted = pytest.mark.skipif(NAME != "pretend", reason="waits are counted on the pretend device")
DRAWN = ("SmoothGrad", "Smooth IG", "Expected Gradients", "AGI", "IG2")


def waits() -> int:
    """How often the host has waited for the device so far."""
    return sys.modules["pretend"].waits()


def waited(work) -> int:
    """How often the host waits while `work()` is done."""
    before = waits()
    work()
    return waits() - before


def classifier(device: torch.device) -> nn.Module:
    """Five classes of images (b, 1, 12, 12), float64."""
    return small_net((nn.SiLU(), nn.SiLU())).to(device)


def autoencoder(device: torch.device):
    """Six smooth latents of images (b, 1, 12, 12), float64."""
    torch.manual_seed(1)
    encode = nn.Sequential(nn.Flatten(), nn.Linear(144, 6))
    decode = nn.Sequential(nn.Linear(6, 144), nn.Sigmoid(), nn.Unflatten(1, (1, 12, 12)))
    for half in (encode, decode):
        half.double().eval().requires_grad_(False).to(device)
    return m.adapt(encode, decode)


def images(device: torch.device, n: int = 3, seed: int = 1) -> Tensor:
    """Images (n, 1, 12, 12) in [0, 1]."""
    return rand(n, 1, 12, 12, seed=seed).to(device)


def classes(device: torch.device) -> Tensor:
    """The class to explain in each of three images."""
    return torch.tensor([0, 1, 2], device=device)


def explained(name: str, device: torch.device, steps: int = 10) -> Tensor:
    """A method's map of three images."""
    made = EVERY[name](m.score(classifier(device)), autoencoder(device), images(device, 8, 2))
    return made.attribute(images(device), target=classes(device), **steps_of(name, steps))


def close(on_device, on_cpu) -> None:
    """The same numbers, each tensor on its own device."""
    if isinstance(on_cpu, Tensor):
        assert on_device.device.type == torch.device(NAME).type and on_cpu.device == CPU
        torch.testing.assert_close(on_device.cpu(), on_cpu, rtol=1e-6, atol=1e-9)
    elif isinstance(on_cpu, dict):
        assert list(on_device) == list(on_cpu)
        close(list(on_device.values()), list(on_cpu.values()))
    elif isinstance(on_cpu, (list, tuple)):
        assert len(on_device) == len(on_cpu)
        for ours, theirs in zip(on_device, on_cpu):
            close(ours, theirs)
    else:
        assert on_device == on_cpu


@pytest.mark.parametrize("name", EVERY)
def test_a_method_gives_the_map_of_the_cpu(name, device):
    close(explained(name, device), explained(name, CPU))


@counted
@pytest.mark.parametrize("name", EVERY)
def test_a_longer_walk_does_not_wait_more_often(name, device):
    """Twice the segments, as many waits: only input checks wait. A geodesic's sweep may once."""
    few, many = (waited(lambda: explained(name, device, steps)) for steps in (8, 16))
    allowed = 3 * 8 if name == "MIG" else 0  # three sweeps of eight further segments
    assert 0 < few and many - few <= allowed, (few, many)


@counted
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_sweep_waits_at_most_once_a_segment(solver, device):
    """Whatever the solver reads after a sweep over the path's segments."""
    few, many = (waited(lambda: shortest(device, solver, sweeps, tol=0.0)) for sweeps in (2, 4))
    assert many - few <= 2 * 6, (few, many)


@counted
def test_steps_until_a_tolerance_wait_at_most_once_a_segment(device):
    """Each halving checks once whether it may stop."""
    line, found = m.straight_path(*ends(device), 4), []
    door = waited(lambda: m.path_attribution(f(device), line))
    for tol in (0.1, 1e-4):
        spent = waited(lambda: found.append(m.adaptive_attribution(f(device), line, tol=tol)))
        steps = int(found.pop().reached.steps.max())
        assert spent <= door + steps, (spent, door, steps)


@counted
def test_the_guided_step_and_the_integrator_do_not_wait(device):
    """The input checks are the same for a walk of any length."""
    for draw in (m.guided_path, m.settled_path):
        few, many = (waited(lambda: walk_of(draw, device, n)) for n in (6, 60))
        assert few == many
    few, many = (
        waited(lambda: m.path_attribution(f(device), m.straight_path(*ends(device), n)))
        for n in (6, 60)
    )
    assert few == many


# ---- the rest of the public face, by name: device -> what it returns


def codes(device: torch.device, n: int = 2, seed: int = 3) -> Tensor:
    """Latents (n, 6)."""
    return randn(n, 6, seed=seed).to(device)


def f(device: torch.device) -> m.Score:
    """The score of the class of each of three images."""
    return m.score(classifier(device), classes(device))


def decode(device: torch.device):
    """The decoder alone."""
    return autoencoder(device).decode


def ends(device: torch.device) -> tuple[Tensor, Tensor]:
    """Black images and images."""
    return torch.zeros_like(images(device)), images(device)


def latent_ends(device: torch.device) -> tuple[Tensor, Tensor]:
    """Two pairs of latents."""
    return codes(device, seed=3), codes(device, seed=4)


def a_map(device: torch.device) -> Tensor:
    """Some map of the three images."""
    return randn(3, 1, 12, 12, seed=5).to(device)


def basis(device: torch.device) -> Tensor:
    """Tangent bases at two latents."""
    return m.tangent_basis(decode(device), codes(device))


def saved(device: torch.device) -> Tensor:
    """A map written to a file; it is read back on the CPU, so it returns to its device here."""
    with TemporaryDirectory() as folder:
        place = Path(folder) / "map.safetensors"
        m.save_map(place, a_map(device))
        return m.load_map(place)[0].A.to(device)


def diffused(device: torch.device):
    """Decoded by a small autoencoder of diffusers."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    wide = dict(block_out_channels=(8,), norm_num_groups=4, latent_channels=2, in_channels=1)
    blocks = dict(down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",))
    model = diffusers.AutoencoderKL(**wide, **blocks, out_channels=1, sample_size=12)
    pair = m.from_diffusers(model.double().eval().to(device))
    return pair.decode(pair.encode(images(device)))


def trained(device: torch.device) -> Tensor:
    """Accuracies after removal and retraining, one epoch of a linear classifier."""
    x, y = images(device, 12, 6).float(), torch.arange(12, device=device) % 2
    part = Images(x, y, torch.arange(12, device=device))

    def fresh():
        return nn.Sequential(nn.Flatten(), nn.Linear(144, 2)).to(device)

    how = dict(shares=(0.5,), epochs=1, batch=12)
    return m.roar(part, part, (x, x), fresh, **how).to(device)  # answers are gathered on the host


def drawn_and_probed(device: torch.device):
    """The score's changes where the image is disturbed."""
    return m.probes(f(device), images(device), ends(device)[0], samples=4, generator=seeded())


def sensitivity(device: torch.device):
    """How far a map moves when the image does."""
    method = m.IntegratedGradients(m.score(classifier(device)))

    def attribute(x):
        return method.attribute(x, target=classes(device), n_steps=4)

    return m.max_sensitivity(attribute, images(device), samples=2, generator=seeded())


def layers(device: torch.device) -> dict[str, Tensor]:
    """Similarities of the map to those of networks whose layers were drawn anew."""
    model = classifier(device)

    def explain(net, x):
        return m.Saliency(m.score(net)).attribute(x, target=classes(device))

    return m.mprt(explain, model, images(device), m.randomised(model, seeded()))


def redrawn(device: torch.device) -> list[Tensor]:
    """Scores of networks whose layers were drawn anew."""
    model = classifier(device)
    return [net(images(device)).clone() for _, net in m.randomised(model, seeded())]


def everything(device: torch.device) -> dict[str, Tensor]:
    """The maps of the catalogue's methods that draw nothing."""
    found = m.catalogue(m.score(classifier(device)), autoencoder(device), steps=4)
    x, y = images(device), classes(device)
    return {name: explain(x, y) for name, explain in found.items() if name not in DRAWN}


def length(device: torch.device) -> Tensor:
    """The length of a straight line of latents."""
    return m.path_length(decode(device), m.latent_line(*latent_ends(device), 6))


def energy(device: torch.device) -> Tensor:
    """The energy of a straight line of latents."""
    return m.path_energy(decode(device), m.latent_line(*latent_ends(device), 6))


def shortest(device: torch.device, solver: str, sweeps: int = 3, **how) -> Tensor:
    """A geodesic's points."""
    pair = autoencoder(device)
    how |= dict(iterations=sweeps) | ({"encode": pair.encode} if solver == "encoder" else {})
    return m.geodesic(pair.decode, *latent_ends(device), 6, solver, **how).gamma_z


def walked(device: torch.device) -> list[Tensor]:
    """Points, scores and gradients of steps by hand."""
    x0, x = ends(device)
    gamma = m.Path(lambda: iter([m.Step(x0), m.Step((x0 + x) / 2), m.Step(x)]), x0, x, 2)
    return m.path_attribution(f(device), gamma).A


def walk_of(draw, device: torch.device, steps: int) -> Tensor:
    """A path of a guided method, walked to its end."""
    return m.path_attribution(f(device), draw(f(device), *ends(device), steps)).A


def toward(device: torch.device) -> Tensor:
    """A path towards a reference of another class."""
    return m.iterative_path(f(device), images(device), images(device, 3, 8), 5).stack()


def against(device: torch.device) -> Tensor:
    """A path against another class."""
    other = classes(device) + 1
    return m.adversarial_path(f(device), images(device), other, 5).stack()


FACE = {
    "score": lambda d: f(d)(images(d)),
    "Score": lambda d: m.Score(classifier(d), 1)(images(d)),
    "value_and_grad": lambda d: m.value_and_grad(f(d), images(d)),
    "adapt": lambda d: decode(d)(codes(d)),
    "latent_line": lambda d: m.latent_line(*latent_ends(d), 4),
    "path_energy": energy,
    "path_length": length,
    "pullback_metric": lambda d: m.pullback_metric(decode(d), codes(d)),
    "tangent_basis": lambda d: basis(d) @ basis(d).mT,
    "project_matrix_free": lambda d: m.project_matrix_free(decode(d), codes(d), a_map(d)[:2]),
    "geodesic": lambda d: shortest(d, "quasi-newton"),
    "Path": walked,
    "Step": walked,
    "straight_path": lambda d: m.straight_path(*ends(d), 4).stack(),
    "blur": lambda d: m.blur(images(d), 2.0),
    "blur_path": lambda d: m.blur_path(images(d), 4).stack(),
    "baseline": lambda d: m.baseline(images(d), "mean"),
    "guided_path": lambda d: m.guided_path(f(d), *ends(d), 6).stack(),
    "settled_path": lambda d: m.settled_path(f(d), *ends(d), 6).stack(),
    "decoded_path": lambda d: m.decoded_path(
        decode(d), m.latent_line(codes(d, 3), codes(d, 3, 4), 4), *ends(d), True
    ).stack(),
    "enhanced_path": lambda d: m.enhanced_path(autoencoder(d), *ends(d), 4).stack(),
    "manifold_path": lambda d: m.manifold_path(autoencoder(d), *ends(d), 4, iterations=2).stack(),
    "manifold_guided_path": lambda d: m.manifold_guided_path(
        f(d), autoencoder(d), *ends(d), 6
    ).stack(),
    "manifold_settled_path": lambda d: m.manifold_settled_path(
        f(d), autoencoder(d), *ends(d), 6
    ).stack(),
    "least_resistance_path": lambda d: m.least_resistance_path(
        lambda x: classifier(d)(x).softmax(1), *ends(d), 4, iterations=2
    ).stack(),
    "iterative_path": toward,
    "adversarial_path": against,
    "Attribution": lambda d: m.path_attribution(f(d), m.straight_path(*ends(d), 4)),
    "path_attribution": lambda d: [
        m.path_attribution(f(d), m.straight_path(*ends(d), 8), rule=rule)
        for rule in ("trapezoid", "gauss-legendre")
    ],
    "adaptive_attribution": lambda d: (
        m.adaptive_attribution(f(d), m.straight_path(*ends(d), 4), tol=0.05).A
    ),
    "trace": lambda d: m.trace(f(d), m.straight_path(*ends(d), 4)),
    "every_path": lambda d: {
        name: path(*ends(d), steps=4).stack()
        for name, path in m.every_path(f(d), autoencoder(d)).items()
    },
    "explain": lambda d: [
        block.A.to(d)  # maps of a whole data set are gathered on the host
        for block in m.explain(classifier(d), [images(d)], m.IntegratedGradients, progress=False)
    ],
    "catalogue": everything,
    "heat_map": lambda d: m.heat_map(a_map(d)),
    "save_map": saved,
    "load_map": saved,
    "tangent_fraction": lambda d: m.tangent_fraction(basis(d), a_map(d)[:2]),
    "tangent_importance": lambda d: m.tangent_importance(basis(d), a_map(d)[:2]),
    "roar": trained,
    "diffid": lambda d: m.diffid(f(d), a_map(d), images(d), 0.0),
    "removal": lambda d: m.removal(f(d), a_map(d), images(d), 0.5, levels=5),
    "completeness_residual": lambda d: m.completeness_residual(
        f(d), a_map(d), images(d), ends(d)[0]
    ),
    "infidelity": lambda d: m.infidelity(a_map(d), drawn_and_probed(d)),
    "max_sensitivity": sensitivity,
    "probes": drawn_and_probed,
    "along": lambda d: m.along(m.straight_path(*ends(d), 4), {"score": f(d)}),
    "area": lambda d: m.area(rand(5, 2).to(d)),
    "nearest_on_manifold": lambda d: m.nearest_on_manifold(
        decode(d), images(d, 2), codes(d), iterations=3
    ),
    "prdc": lambda d: m.prdc(images(d, 9, 1).flatten(1), images(d, 8, 2).flatten(1), k=2),
    "efficient_mprt": lambda d: m.efficient_mprt(a_map(d), a_map(d).flip(-1)),
    "mprt": layers,
    "randomised": redrawn,
    "digits": lambda d: m.digits("test").x[:4].to(d).double().mean(0),
    "digit_classifier": lambda d: m.digit_classifier().to(d).double()(digit(d)),
    "digit_vae": lambda d: m.digit_vae().to(d).double().decode(randn(2, 10, seed=9).to(d)),
    "from_diffusers": diffused,
}


def test_latents_drawn_on_the_cpu_reach_a_decoder_on_the_device(device):
    """The chapters' generator is the CPU's: the same draws, and the same ones kept."""

    def made(device, home):
        vae, net = m.digit_vae().to(device), m.digit_classifier().to(device)

        def label(x):  # some pages compare with labels on the host
            return net(x).softmax(1).to(home)

        return generate(vae.decode, label, 5, 10, seeded(7))

    theirs = made(CPU, CPU)
    for home in (device, CPU):
        ours = made(device, home)
        close(ours.x, theirs.x)
        assert torch.equal(ours.y.cpu(), theirs.y) and torch.equal(ours.z, theirs.z)


def digit(device: torch.device) -> Tensor:
    """Two held-out digits, float64."""
    return m.digits("test").x[:2].double().to(device)


@pytest.mark.parametrize("name", FACE)
def test_a_function_gives_the_numbers_of_the_cpu(name, device):
    close(noted(FACE[name], device), FACE[name](CPU))


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_solver_gives_the_path_of_the_cpu(solver, device):
    close(shortest(device, solver), shortest(CPU, solver))


def test_the_whole_face_is_tried():
    methods = {
        type(make(m.score(nn.Identity()), autoencoder(CPU), images(CPU))).__name__
        for make in EVERY.values()
    }
    left = set(m.__all__) - set(FACE) - methods
    assert left == {"PathMethod", "GuidedBackprop"}, "what only a ReLU network can, and a base"
