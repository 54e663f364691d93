"""Which functions of the package were called with something that lies on the device."""

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from where import NAME

import manifold_xai

PACKAGE = str(Path(manifold_xai.__file__).parent)
CODES: set = set()  # of the functions


@cache
def noted(work: Callable, device: torch.device):
    """What work(device) returns, asked once; what it calls is noted."""
    with Seen():
        return work(device)


class Seen:
    """Notes in CODES what functions of the package are called with, while it is open."""

    def __enter__(self):
        sys.setprofile(self.note)

    def __exit__(self, *error):
        sys.setprofile(None)

    def note(self, frame, event, arg):
        """A call: remember it if an argument lies on the device."""
        code = frame.f_code
        if event == "call" and code not in CODES and code.co_filename.startswith(PACKAGE):
            if any(_there(value) for value in frame.f_locals.values()):
                CODES.add(code)


def _there(value, deep: int = 4) -> bool:
    """Whether a value, or what it holds or remembers, is on the device."""
    if isinstance(value, Tensor):
        return value.device.type == torch.device(NAME).type
    if isinstance(value, torch.device):
        return value.type == torch.device(NAME).type
    if isinstance(value, nn.Module):
        made = "_parameters" in vars(value)  # not in the first line of its own __init__
        return made and any(_there(p) for p in value.parameters())
    if deep == 0 or isinstance(value, type):
        return False
    if isinstance(value, (tuple, list)):
        return any(_there(part, deep - 1) for part in value)
    if isinstance(value, dict):
        return any(_there(part, deep - 1) for part in value.values())
    cells = getattr(value, "__closure__", None) or ()
    held = [cell.cell_contents for cell in cells if _full(cell)]
    held += [getattr(value, name, None) for name in ("__self__", "func", "args", "keywords")]
    if type(value).__module__.startswith("manifold_xai"):
        held += [*getattr(value, "__dict__", {}).values()]
    return any(_there(part, deep - 1) for part in held)


def _full(cell) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # not yet bound
        return False
