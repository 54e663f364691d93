"""With this folder on PYTHONPATH every process of ours, kernels too, knows the device `pretend`."""

import pretend  # noqa: F401
