"""A device named `pretend`: the CPU under another name, so that code for GPUs can be tried without.

Importing this module registers it (built on first use: needs a C++ compiler and ninja, a minute).
`waits()` says how often the host has waited for the device since the process started.
"""

import contextlib
import hashlib
import importlib.util
import os
import shutil
import tempfile
import types
from pathlib import Path

import torch
from filelock import FileLock

SOURCE = Path(__file__).with_name("pretend.cpp")
NAME = "pretend_device"
AMP = [torch.bfloat16, torch.float16]


def missing() -> str:
    "What is missing for building the device; empty if nothing is."
    tools = [name for name in ("c++", "ninja") if shutil.which(name) is None]
    return f"no {' and no '.join(tools)} to build the pretend device with" if tools else ""


def _place() -> Path:
    "Where the built extension is kept: one folder for each version of the source and of torch."
    text = SOURCE.read_bytes() + torch.__version__.encode()
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return cache / "manifold_xai" / f"pretend-{hashlib.sha256(text).hexdigest()[:12]}"


def _build(place: Path) -> None:
    "Build the extension elsewhere, then move it, so that a build that is killed breaks nothing."
    from torch.utils.cpp_extension import load

    if reason := missing():
        raise ImportError(reason)
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place.with_suffix(".lock")), tempfile.TemporaryDirectory(dir=place.parent) as new:
        if place.exists():  # somebody else was first; a second copy must not be loaded
            return
        how = dict(build_directory=new, extra_cflags=["-O1", "-g0"], is_python_module=False)
        load(NAME, [str(SOURCE)], **how)
        os.rename(new, place)
        os.mkdir(new)  # for the context to remove


def _extension():
    "The extension, built if it is not there."
    place = _place()
    if not (place / f"{NAME}.so").exists():
        _build(place)
    spec = importlib.util.spec_from_file_location(NAME, place / f"{NAME}.so")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _module(extension) -> types.ModuleType:
    "What `torch.pretend` offers, as `torch.cuda` would."
    module = types.ModuleType("torch.pretend")
    module.is_available = module.is_initialized = lambda: True
    module.device_count = lambda: 1
    module.current_device = lambda: 0
    module._is_in_bad_fork = lambda: False
    module._lazy_init = lambda: None
    module.synchronize = lambda *device: None
    module.device = lambda device: contextlib.nullcontext()
    module.get_amp_supported_dtype = lambda: AMP
    module.manual_seed = module.manual_seed_all = extension.manual_seed
    module.get_rng_state = lambda *device: extension.default_generator().get_state()
    module.set_rng_state = lambda state, *device: extension.default_generator().set_state(state)
    return module


_device = _extension()
torch.utils.rename_privateuse1_backend("pretend")
torch._register_device_module("pretend", _module(_device))
torch.utils.generate_methods_for_privateuse1_backend(for_storage=True)
waits = _device.waits
