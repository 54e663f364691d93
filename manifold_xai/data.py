"""Old name: its definitions live in subjects.data, subjects.generated and subjects.sources."""
from manifold_xai.subjects.data import *  # noqa: F403
from manifold_xai.subjects.generated import *  # noqa: F403
from manifold_xai.subjects.sources import *  # noqa: F403
