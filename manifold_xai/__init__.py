"""Feature attribution that respects the data manifold: what the chapters of `nbs/` export."""
from importlib import import_module

# First and eagerly: loading its module binds the name to the module, this line to the function.
from manifold_xai.score import score

__version__ = "0.1.0"

# The public face by module, loaded when first asked for: captum alone pulls in matplotlib.
_FACE = {
    "score": ("Score",),
    "chunks": ("value_and_grad",),
    "autoencoder": ("adapt",),
    "geometry.metric": (
        "latent_line", "path_energy", "path_length", "pullback_metric", "tangent_basis",
    ),
    "geometry.matrix_free": ("project_matrix_free",),
    "geometry.geodesic": ("geodesic",),
    "paths.path": ("Path", "Step"),
    "paths.straight": ("straight_path",),
    "paths.blur": ("blur", "blur_path"),
    "paths.baseline": ("baseline",),
    "paths.guided": ("guided_path", "settled_path"),
    "paths.manifold": ("decoded_path", "enhanced_path", "manifold_path"),
    "paths.manifold_guided": ("manifold_guided_path", "manifold_settled_path"),
    "paths.every": ("every_path",),
    "paths.ig2": ("iterative_path",),
    "paths.resistance": ("least_resistance_path",),
    "paths.agi": ("adversarial_path",),
    "attribution.integral": ("Attribution", "path_attribution"),
    "attribution.adaptive": ("adaptive_attribution",),
    "attribution.base": ("PathMethod",),
    "attribution.methods": (
        "AGI", "IG2", "BlurIG", "EnhancedIG", "GuidedIG", "IntegratedGradients",
        "ManifoldAlignedGuidedIG", "ManifoldIG", "ManifoldSettledIG", "SettledIG",
    ),
    "attribution.captum": (
        "ExpectedGradients", "GuidedBackprop", "InputXGradient",
        "Saliency", "SmoothGrad", "SmoothIG",
    ),
    "attribution.catalogue": ("catalogue",),
    "attribution.explain": ("explain",),
    "attribution.trace": ("trace",),
    "attribution.maps": ("heat_map", "load_map", "save_map"),
    "evaluation.alignment": ("tangent_fraction", "tangent_importance"),
    "evaluation.roar": ("roar",),
    "evaluation.removal": ("diffid", "removal"),
    "evaluation.faithfulness": (
        "completeness_residual", "max_sensitivity", "probes",
    ),
    "evaluation.infidelity": ("infidelity",),
    "evaluation.area": ("area",),
    "evaluation.plausibility": ("along", "nearest_on_manifold", "prdc"),
    "evaluation.efficient_mprt": ("efficient_mprt",),
    "evaluation.sanity": ("mprt", "randomised"),
    "subjects.data": ("digits",),
    "subjects.classifiers": ("digit_classifier",),
    "subjects.autoencoders": ("digit_vae", "from_diffusers"),
}
_HOME = {name: module for module, names in _FACE.items() for name in names}
__all__ = ["score", *_HOME]


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    return value


def __dir__():
    return sorted({*globals(), *__all__})
