"""The public face as editors and mypy see it: what `_FACE` in __init__.py names, by module."""
from .attribution.adaptive import adaptive_attribution as adaptive_attribution
from .attribution.base import PathMethod as PathMethod
from .attribution.captum import (
    ExpectedGradients as ExpectedGradients,
    GuidedBackprop as GuidedBackprop,
    InputXGradient as InputXGradient,
    Saliency as Saliency,
    SmoothGrad as SmoothGrad,
    SmoothIG as SmoothIG,
)
from .attribution.catalogue import catalogue as catalogue
from .attribution.explain import explain as explain
from .attribution.integral import (
    Attribution as Attribution,
    path_attribution as path_attribution,
)
from .attribution.maps import (
    heat_map as heat_map,
    load_map as load_map,
    save_map as save_map,
)
from .attribution.methods import (
    AGI as AGI,
    BlurIG as BlurIG,
    EnhancedIG as EnhancedIG,
    GuidedIG as GuidedIG,
    IG2 as IG2,
    IntegratedGradients as IntegratedGradients,
    ManifoldAlignedGuidedIG as ManifoldAlignedGuidedIG,
    ManifoldIG as ManifoldIG,
    ManifoldSettledIG as ManifoldSettledIG,
    SettledIG as SettledIG,
)
from .attribution.trace import trace as trace
from .autoencoder import adapt as adapt
from .chunks import value_and_grad as value_and_grad
from .evaluation.alignment import (
    tangent_fraction as tangent_fraction,
    tangent_importance as tangent_importance,
)
from .evaluation.area import area as area
from .evaluation.efficient_mprt import efficient_mprt as efficient_mprt
from .evaluation.faithfulness import (
    completeness_residual as completeness_residual,
    max_sensitivity as max_sensitivity,
    probes as probes,
)
from .evaluation.infidelity import infidelity as infidelity
from .evaluation.plausibility import (
    along as along,
    nearest_on_manifold as nearest_on_manifold,
    prdc as prdc,
)
from .evaluation.removal import (
    diffid as diffid,
    removal as removal,
)
from .evaluation.roar import roar as roar
from .evaluation.sanity import (
    mprt as mprt,
    randomised as randomised,
)
from .geometry.geodesic import geodesic as geodesic
from .geometry.matrix_free import project_matrix_free as project_matrix_free
from .geometry.metric import (
    latent_line as latent_line,
    path_energy as path_energy,
    path_length as path_length,
    pullback_metric as pullback_metric,
    tangent_basis as tangent_basis,
)
from .paths.agi import adversarial_path as adversarial_path
from .paths.baseline import baseline as baseline
from .paths.blur import (
    blur as blur,
    blur_path as blur_path,
)
from .paths.every import every_path as every_path
from .paths.guided import (
    guided_path as guided_path,
    settled_path as settled_path,
)
from .paths.ig2 import iterative_path as iterative_path
from .paths.manifold import (
    decoded_path as decoded_path,
    enhanced_path as enhanced_path,
    manifold_path as manifold_path,
)
from .paths.manifold_guided import (
    manifold_guided_path as manifold_guided_path,
    manifold_settled_path as manifold_settled_path,
)
from .paths.path import (
    Path as Path,
    Step as Step,
)
from .paths.resistance import least_resistance_path as least_resistance_path
from .paths.straight import straight_path as straight_path
from .score import (
    Score as Score,
    score as score,
)
from .subjects.autoencoders import (
    digit_vae as digit_vae,
    from_diffusers as from_diffusers,
)
from .subjects.classifiers import digit_classifier as digit_classifier
from .subjects.data import digits as digits

__version__: str
__all__: list[str]
