"""The device that is tried: one that is the CPU under another name, or a real one."""

import os

import pytest
import torch

NAME = os.environ.get("MANIFOLD_XAI_TEST_DEVICE", "pretend")


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The pretend device, skipped with the reason where it cannot be built; or the one asked."""
    if NAME != "pretend":
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        return torch.device(NAME)
    try:
        import pretend  # noqa: F401
    except ImportError as missing:
        pytest.skip(str(missing))
    return torch.device("pretend")
