"""What lies behind the public face, on the device: every function of the library that takes
tensors or networks is called there, or the reason why not is given here."""

import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest
import torch
from every import EVERY
from helpers import rand, randn, seeded, small_net
from test_device import (
    CPU,
    FACE,
    a_map,
    autoencoder,
    basis,
    classes,
    classifier,
    close,
    codes,
    decode,
    ends,
    explained,
    f,
    images,
    latent_ends,
    shortest,
    walk_of,
)
from torch import Tensor, nn
from seen import CODES, Seen, noted

import manifold_xai as m
from manifold_xai.attribution import adaptive
from manifold_xai.attribution.plain import path_integral
from manifold_xai.autoencoder import kinks, out_of_range_share, reconstruct
from manifold_xai.chunks import value_and_jacobian
from manifold_xai.evaluation import (
    attacks,
    completeness,
    controls,
    plausibility,
    removal,
    roar,
    sanity,
)
from manifold_xai.geometry import curvature, decoder, latent, solvers, worlds
from manifold_xai.geometry.geodesic import published_sweeps
from manifold_xai.geometry.metric import magnification
from manifold_xai.geometry.solvers import SOLVERS
from manifold_xai.paths import agi, guided, ig2, manifold, manifold_guided, order
from manifold_xai.score import rows_in_words
from manifold_xai.subjects import autoencoders, classifiers, generated, losses, store, training
from manifold_xai.subjects.data import Images, split


def line(device: torch.device) -> Tensor:
    """A bent walk in the latents, (7, 2, 6)."""
    return latent.slerp(*latent_ends(device), 6)


def features(device: torch.device, n: int, seed: int) -> Tensor:
    """Points of a feature space, (n, 5)."""
    return randn(n, 5, seed=seed).to(device)


def pictures(device: torch.device, n: int = 12) -> Images:
    """Labelled digits of 32 × 32, float64: in float32 Adam's first steps magnify rounding."""
    x, y, rows = (t[:n].to(device) for t in m.digits("train"))
    return Images(x.double(), y, rows)


def net(device: torch.device) -> nn.Module:
    """An untrained classifier of 32 × 32, the same on every device."""
    torch.manual_seed(3)
    return classifiers.DigitCNN(width=2).double().to(device)


def taught(device: torch.device, train, *more, **how) -> Tensor:
    """Logits of a classifier after one epoch."""
    model = net(device)
    train(model, pictures(device), *more, epochs=1, generator=seeded(), batch=6, **how)
    return model.eval()(pictures(device).x).detach()


def reader(device: torch.device) -> m.Score:
    """The score of the class that the trained classifier sees in two digits."""
    model = m.digit_classifier().double().to(device)
    return m.score(model).at(pictures(device, 2).x)


def vae(device: torch.device) -> nn.Module:
    """An untrained VAE of digits, float64."""
    return autoencoders.initialise(autoencoders.VAE(), seeded()).double().to(device)


def drawn_again(device: torch.device) -> Tensor:
    """What the VAE decodes after an epoch."""
    model, x = vae(device), pictures(device).x
    autoencoders.train_vae(model, x, epochs=1, generator=seeded(), augment=autoencoders.nudge)
    return model.decode(randn(2, 10).to(x)).detach()


def lost(device: torch.device):
    """Parts of the loss of a VAE, and the loss."""
    model, x = vae(device), pictures(device).x
    q = model.posterior(x)
    z = q.mean if hasattr(q, "mean") else q[0]
    found = losses.kl(q), *losses.kl_parts(z, q, 100), losses.squared_error(x / 2, x)
    return [part.detach() for part in (*found, losses.vae_loss(model, x, 100, seeded()).loss)]


def tuned(device: torch.device) -> Tensor:
    """Logits of a borrowed network after its head and then all of it learned."""
    torch.manual_seed(4)
    backbone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.SiLU(), nn.Flatten(), nn.Linear(3600, 8))
    model = classifiers.with_head(classifiers.Pretrained(backbone, nn.Identity()), 10)
    model = model.double().to(device)
    how = dict(generator=seeded(), frozen=1, free=1, batch=6)
    classifiers.finetune(model, pictures(device), **how)
    return model.eval()(pictures(device).x).detach()


def folded(device: torch.device) -> Tensor:
    """Logits of a network whose batch norm was folded into its convolution."""
    torch.manual_seed(5)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten()).double().eval()
    nn.init.uniform_(network[1].running_var, 0.5, 2.0)
    x = pictures(device).x
    return classifiers.folded(network.to(device), x).to(device)(x).detach()


def attacked(device: torch.device):
    """Images attacked for a map, and for the order of its largest features."""
    score = f(device)

    def explain(x, rows=None):
        return traced(score, x, rows)

    how = dict(eps=0.05, iterations=2)
    aimed = attacks.targeted_attack(explain, score, images(device), a_map(device), **how)
    top = attacks.topk_attack(explain, score, images(device), 10, **how)
    return [aimed.x, top.x]


def traced(score, x: Tensor, rows=None) -> Tensor:
    """IG's map, through which a gradient can pass."""
    t = torch.linspace(0, 1, 4, dtype=x.dtype, device=x.device).view(-1, 1, 1, 1, 1)
    return attacks.traced_attribution(score, t * x, rows)


def steps_on(device: torch.device) -> list[m.Step]:
    """Points of a line, with scores and gradients."""
    points = [t * images(device) for t in (0.0, 0.25, 0.5, 0.75, 1.0)]
    return [m.Step(point, *m.value_and_grad(f(device), point)[::-1]) for point in points]


def until(device: torch.device) -> Tensor:
    """A map found by walks with ever more steps."""

    def walk(steps):
        return m.path_attribution(f(device), m.straight_path(*ends(device), steps))

    return adaptive.walked(walk, images(device), tol=0.05).A


class Asked(nn.Module):
    """Two inputs, and an argument that follows the rows."""

    def __init__(self, device: torch.device):
        super().__init__()
        self.model = classifier(device)

    def forward(self, x, other, weight):
        return self.model(x + other) * weight[:, None]


def scaled(x, said):  # by a factor per row, inside a dictionary
    return x.flatten(1).square().sum(1) * said["by"]


def two_inputs(device: torch.device):
    """Maps of two inputs, of several classes, under an argument for each row."""
    method, weight = m.IntegratedGradients(Asked(device)), rand(3, seed=6).to(device)
    how = dict(additional_forward_args=weight, n_steps=4)
    pair = images(device), images(device, seed=7)
    return [
        *method.attribute(pair, target=classes(device), **how),
        *method.attribute(pair, targets=[0, 2], **how),
        *method_of_all(device),
    ]


def method_of_all(device: torch.device) -> list[Tensor]:
    """Maps of every class, by one walk and by a walk for each."""
    f, x = m.score(classifier(device)), images(device)
    own = m.GuidedIG(f).attribute(x, targets=[0, 2], n_steps=4)
    return [m.Saliency(f).attribute(x, targets="all"), own]


def guided_backwards(device: torch.device) -> Tensor:
    """Guided backpropagation of a network that has what it needs."""
    model = small_net((nn.ReLU(), nn.ReLU())).to(device)
    return m.GuidedBackprop(model).attribute(images(device), target=classes(device))


def felt(device: torch.device) -> Tensor:
    """The loss of a decoder under a network's features."""
    error = autoencoders.perceptual(classifier(device), weight=0.5)
    return error(images(device) / 2, images(device))


def read(device: torch.device):
    """What the trained classifier says of digits, as probabilities."""
    model = m.digit_classifier().to(device)
    return lambda x: model(x).softmax(1)


def kept(device: torch.device):
    """Digest and check of tensors on a device."""
    tensors = dict(a=images(device))
    store.check_weights(Path("a"), tensors)
    return store.digest(tensors)


def benched(device: torch.device) -> list[Tensor]:
    """A unit of the benchmark with every measure, on one digit."""
    pytest.importorskip("pyarrow")
    from manifold_xai.benchmark.grid import Cell
    from manifold_xai.benchmark.measures import MEASURES
    from manifold_xai.benchmark.unit import Worker, compute

    settings = dict(steps=2, refine=0.0, randomised=False, precision="float64", chosen="right")
    settings |= dict(measures=[*MEASURES], judge="", limit=0)
    cell = Cell("IG", "IG", {}, "digits", 0, "digits-smooth", "", settings)
    columns = compute(Worker(None, str(device)), cell, [3]).columns
    numbers = [v for v in columns.values() if isinstance(v[0], (float, list))]
    return [torch.tensor(v, dtype=torch.float64).nan_to_num().to(device) for v in numbers]


def every(device: torch.device) -> Tensor:
    """The rows of all three images."""
    return torch.arange(3, device=device)


def layers_of(device: torch.device):
    """Two layers of the classifier."""
    names = [name for name, part in classifier(device).named_modules() if name][:2]
    return plausibility.taps(classifier(device), names)


REST = {
    "path_integral": lambda d: path_integral(f(d), m.straight_path(*ends(d), 4).stack()),
    "autoencoder": lambda d: [
        reconstruct(autoencoder(d), images(d)),
        out_of_range_share(images(d) * 2),
        kinks(decode(d), codes(d)),
    ],
    "value_and_jacobian": lambda d: value_and_jacobian(classifier(d), images(d)),
    "attacks": attacked,
    "maps": lambda d: [
        attacks.unit_mass(a_map(d)),
        attacks.map_ssim(a_map(d), a_map(d).flip(-1)),
        attacks.map_correlation(a_map(d), a_map(d).flip(-1)),
        attacks.follow(line(d), codes(d, seed=9)),
    ],
    "controls": lambda d: [
        controls.tangent_noise(basis(d), a_map(d)[:2], seeded()),
        controls.digit_mask(images(d), widen=1),
        controls.structure(a_map(d)),
    ],
    "plausibility": lambda d: [
        plausibility.remaining(*ends(d))(images(d) / 2, every(d)),
        plausibility.jump_path(*ends(d), 4).stack(),
        plausibility.largest_step(m.straight_path(*ends(d), 4)),
        plausibility.neighbour_distance(features(d, 4, 1), features(d, 12, 2), 3),
        plausibility.support(features(d, 12, 2), 3).inside(features(d, 4, 1)),
        plausibility.gaussian(features(d, 12, 2)).distance(features(d, 4, 1)),
        plausibility.free_energy(features(d, 4, 1)),
        plausibility.feature_distance(layers_of(d)(images(d)), layers_of(d)(images(d).flip(-1))),
        plausibility.features_to(images(d), layers_of(d))(images(d).flip(-1), every(d)),
        plausibility.distance_to(images(d), lambda a, b: (a - b).flatten(1).norm(dim=1))(
            images(d) / 2, every(d)
        ),
    ],
    "removal": lambda d: [
        removal.ranks(a_map(d)),
        removal.ranks(a_map(d), generator=seeded()),
        removal.channel_mean(images(d)),
        removal.kept_mean(images(d), images(d) > 0.5),
        removal.shuffled(images(d), seeded()),
        *removal.published_diffid(f(d), a_map(d), images(d)),
    ],
    "roar": lambda d: [
        roar.removed(images(d), a_map(d), 0.5, fill, source=images(d), generator=seeded())
        for fill in roar.FILLS
    ],
    "sanity": lambda d: [
        sanity.rank_correlation(a_map(d), a_map(d).flip(-1)),
        sanity.rank_correlation(a_map(d), a_map(d).flip(-1), images(d) > 0.5),
        sanity.complexity(a_map(d)),
        sanity.edges(images(d)),
        sanity.planted(images(d), (images(d) > 0.9)[0]),
        sanity.share_on(a_map(d), images(d) > 0.5),
    ],
    "curvature": lambda d: [
        curvature.christoffel(decode(d), codes(d)),
        curvature.path_curvature(decode(d), line(d)),
        curvature.normal_curvature(decode(d), *latent_ends(d)),
    ],
    "decoder": lambda d: [
        decoder.jacobian(decode(d), codes(d)),
        decoder.metric_norm(decode(d), *latent_ends(d)),
        decoder.path_chords(decode(d), line(d)),
        magnification(decode(d), codes(d)),
    ],
    "latents": lambda d: [
        latent.constant_speed(decode(d), line(d)),
        latent.unevenness(decoder.path_chords(decode(d), line(d))),
        latent.resample(line(d), decoder.path_chords(decode(d), line(d)), 9),
    ],
    "sweeps": lambda d: [
        published_sweeps(decode(d), *latent_ends(d), 5, 2),
        solvers.energy_gradient(decode(d), line(d)),
    ],
    "parabola": lambda d: worlds.parabola_radius(worlds.parabola_length(rand(4).to(d))),
    "worlds": lambda d: [
        world(torch.tensor([[0.3, 0.4]], device=d, dtype=torch.float64))
        for world in worlds.WORLDS.values()
    ],
    "paths": lambda d: [
        agi.other_classes(classes(d), 5),
        ig2.another_class(reader(d), pictures(d, 2).x, pictures(d).x, seeded()),
        order.distance_left(images(d) / 2, images(d)),
        order.queue(*ends(d), a_map(d)),
        order.guided_step_loop(*ends(d), a_map(d), 1.0),
        guided.mean_gradient(f(d), *ends(d), 5),
        manifold.encoded(autoencoder(d), images(d)),
        *manifold_guided.decode_and_grad(f(d), decode(d), codes(d, 3)),
        manifold_guided.latent_score(f(d), decode(d))(codes(d, 3)),
    ],
    "turned": lambda d: [
        autoencoders.add_plain(images(d), 2),
        autoencoders.nudge(images(d), seeded()),
        classifiers.jitter(images(d), seeded()),
        classifiers.reconstructed(m.digit_vae().double().to(d), pictures(d)).x.to(d),
        generated.upsampled(decode(d), 24)(codes(d)),
    ],
    "losses": lost,
    "train_vae": drawn_again,
    "train_classifier": lambda d: taught(d, training.train_classifier, pictures(d)),
    "train_robust": lambda d: taught(d, training.train_robust, radii=(0.5,), iterations=2),
    "finetune": tuned,
    "folded": folded,
    "judged": lambda d: [
        training.predictions(classifier(d), images(d)).to(d),
        training.pgd_l2(classifier(d), images(d), classes(d), 0.5, 3, seeded()),
        training.accuracy(m.digit_classifier().double().to(d), pictures(d)),
        training.robust_accuracy(
            m.digit_classifier().double().to(d),
            pictures(d),
            (0.0, 0.1),
            generator=seeded(),
            iterations=2,
        ).to(d),
    ],
    "split": lambda d: [rows.to(d) for rows in split(classes(d).repeat(4), [6, 6], seeded())],
    "reached": lambda d: EVERY["IG"](m.score(classifier(d)), None, None).attribute(
        images(d), target=classes(d), tol=0.05
    ),
    "curves": lambda d: m.path_attribution(
        f(d),
        m.decoded_path(decode(d), m.latent_line(codes(d, 3), codes(d, 3, 4), 4), *ends(d), True),
        refine=1e-3,
    ),
    "adaptive": lambda d: [adaptive.bends(steps_on(d)), until(d)],
    "inputs": two_inputs,
    "arguments": lambda d: m.IntegratedGradients(scaled).attribute(
        images(d),
        additional_forward_args=({"by": torch.ones(len(images(d)), dtype=torch.float64).to(d)},),
        n_steps=3,
    ),
    "guided backwards": guided_backwards,
    "laid": lambda d: [
        manifold.lay(decode(d), line(d), 9),
        latent.point_at(line(d), 0.3),
        decoder.jacobian_at(decode(d))(codes(d)[0]),
        guided.line_gradient(f(d), *ends(d), 8),
    ],
    "added up": lambda d: completeness.method_added_up(
        m.IntegratedGradients(f(d)), f(d), images(d), 4
    ),
    "words": lambda d: rows_in_words(images(d) > 0.99),
    "product": lambda d: solvers.product(
        solvers.Surface(decode(d), torch.zeros(2, device=d)), line(d), line(d)[1:-1]
    ),
    "perceptual": felt,
    "stored": kept,
    "generated": lambda d: (
        generated.generate(m.digit_vae().to(d).decode, read(d), 2, 10, seeded()).x
    ),
    "benchmark": benched,
}

# ---- what is called by none of these


ELSEWHERE = {
    "to_tensor": "takes a picture, gives a tensor on the CPU",
    "plain_images": "makes tensors on the CPU",
    "photographs": "reads files",
    "load_images": "reads files",
    "mar_kl16": "reads a file of weights",
    "hypercube_corners": "lists corners on the CPU, for a theorem",
    "draw": "draws on the CPU",
    "load_tensors": "reads a file, to the CPU",
    "listening": "keeps what a method walks, wherever that lies",
    "read_maps": "reads files",
    "write_maps": "writes what is on the CPU",
    "autoencoder": "read to the CPU, then moved",
    "generator_state": "the state of the CPU's generator",
    "set_generator_state": "the state of the CPU's generator",
    "initialise": "draws weights on the CPU, before a model moves",
    "trained": "weights that are made and read on the CPU",
}


def public() -> dict[str, object]:
    """Functions of the library that take tensors, images or networks, by name."""
    found = {}
    for info in pkgutil.walk_packages(m.__path__, "manifold_xai."):
        if ".course" in info.name or info.name.endswith("_modidx"):
            continue
        module = importlib.import_module(info.name)
        for name in getattr(module, "__all__", []):
            function = inspect.unwrap(getattr(module, name))
            if inspect.isfunction(function) and function.__module__ == info.name:
                said = str(inspect.signature(function))
                if any(word in said for word in ("Tensor", "Images", "Module")):
                    found[name] = function
    return found


@pytest.mark.parametrize("name", REST)
def test_a_function_behind_the_face_gives_the_numbers_of_the_cpu(name, device):
    close(noted(REST[name], device), REST[name](CPU))


def test_every_function_that_takes_tensors_is_tried(device):
    for work in (*FACE.values(), *REST.values()):
        noted(work, device)
    with Seen():
        for name in EVERY:
            explained(name, device, 4)
        for solver in SOLVERS:
            shortest(device, solver)
        walk_of(m.settled_path, device, 4)
    codes = {name: function.__code__ for name, function in public().items() if name not in FACE}
    left = [name for name, code in codes.items() if code not in CODES]
    assert sorted(left) == sorted(ELSEWHERE), "each of these needs a call here, or a reason"
