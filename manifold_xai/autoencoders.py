"""Old name: its definitions live in autoencoder and subjects.autoencoders."""
from manifold_xai.autoencoder import *  # noqa: F403
from manifold_xai.subjects.autoencoders import *  # noqa: F403
