"""Old name: its definitions live in subjects.classifiers and subjects.training."""
from manifold_xai.subjects.classifiers import *  # noqa: F403
from manifold_xai.subjects.training import *  # noqa: F403
