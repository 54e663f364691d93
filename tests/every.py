"""Every method of the course, made for a score: what the tests that span methods are parametrised
over."""

from helpers import seeded

from manifold_xai.attribution import captum as neighbours
from manifold_xai.attribution.methods import (
    AGI,
    IG2,
    BlurIG,
    EnhancedIG,
    GuidedIG,
    IntegratedGradients,
    ManifoldAlignedGuidedIG,
    ManifoldIG,
    ManifoldSettledIG,
    SettledIG,
)

# each: (f, autoencoder, references) -> method. Two methods made alike draw the same numbers.
LINES = {
    "IG": lambda f, a, r: IntegratedGradients(f),
    "GIG": lambda f, a, r: GuidedIG(f),
    "Settled IG": lambda f, a, r: SettledIG(f),
}
LATENT = {
    "EIG": lambda f, a, r: EnhancedIG(f, a),
    "MIG": lambda f, a, r: ManifoldIG(f, a, geodesic=dict(iterations=3)),
    "MA-GIG": lambda f, a, r: ManifoldAlignedGuidedIG(f, a),
    "Settled MA-GIG": lambda f, a, r: ManifoldSettledIG(f, a),
}
OUTWARD = {"IG2": lambda f, a, r: IG2(f, r, generator=seeded()), "AGI": lambda f, a, r: AGI(f)}
PATHS = LINES | LATENT | OUTWARD | {"BlurIG": lambda f, a, r: BlurIG(f)}
NEIGHBOURS = {
    "Saliency": lambda f, a, r: neighbours.Saliency(f),
    "Input × Gradient": lambda f, a, r: neighbours.InputXGradient(f),
    "SmoothGrad": lambda f, a, r: neighbours.SmoothGrad(f, samples=4, generator=seeded()),
    "Smooth IG": lambda f, a, r: neighbours.SmoothIG(f, samples=3, steps=4, generator=seeded()),
    "Expected Gradients": lambda f, a, r: neighbours.ExpectedGradients(
        f, r, samples=4, generator=seeded()
    ),
}
EVERY = PATHS | NEIGHBOURS


def steps_of(name, n):
    """n_steps where a method has steps."""
    return {} if name in NEIGHBOURS else dict(n_steps=n)
