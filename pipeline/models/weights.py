"""Weight files: checked by hash, read without running code, loaded strictly. torch is imported on use."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.models.registry import BundleError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipeline.bundle import Bundle

HARMLESS_KEYS = frozenset({"label_enc.weight", "bert.embeddings.position_ids"})
"""Tensors of official detector files that inference never reads: a training-time table, and 0, 1, 2, ..."""


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_weights(bundle: Bundle) -> None:
    """Read the file, and compare. Raises BundleError: it cannot be read, or its hash differs."""
    try:
        actual = sha256_of(bundle.weights)
    except OSError as error:
        raise BundleError(f"{bundle.weights} cannot be read: {error}") from error
    if actual != bundle.sha256:
        raise BundleError(
            f"{bundle.weights} is not the file that {bundle.name!r} means: its SHA-256 is {actual}, expected "
            f"{bundle.sha256}. A broken copy: fetch it again. Weights of your own: see docs/bundles.md."
        )


def load_state_dict(bundle: Bundle) -> dict[str, Tensor]:
    """The bundle's tensors, on the CPU, without a `{"model": ...}` wrapper and without `module.` prefixes.

    The file's SHA-256 is checked before a byte of it is interpreted.

    Raises:
        BundleError: the hash differs, or the file holds anything but tensors by name.
    """
    import torch

    check_weights(bundle)
    content = _read_safetensors(bundle) if bundle.weights.suffix == ".safetensors" else _read_pickle(bundle)
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    if not isinstance(content, Mapping) or not all(isinstance(tensor, torch.Tensor) for tensor in content.values()):
        raise BundleError(f"{bundle.weights} must hold tensors by name, bare or under 'model'.")
    state = {str(key).removeprefix("module."): tensor for key, tensor in content.items()}
    if len(state) < len(content):
        raise BundleError(f"{bundle.weights} holds the same tensor with and without the prefix 'module.'.")
    return state


def _read_safetensors(bundle: Bundle) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(bundle.weights)
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{bundle.weights} is not a safetensors file: {error}") from error


def _read_pickle(bundle: Bundle) -> Any:
    import torch

    path = bundle.weights
    try:
        # Mapped where the format allows: the file is not copied into memory beside the model.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise BundleError(
            f"{path} holds more than tensors, and a pickle can run code: refused. Save the state dict alone, best as "
            "safetensors (docs/bundles.md)."
        ) from error
    except (RuntimeError, ValueError, EOFError, LookupError, TypeError, AttributeError, OSError) as error:
        raise BundleError(f"{path} is not a weight file that torch can read.") from error


def load_weights(model: nn.Module, bundle: Bundle) -> None:
    """Fill `model` with the bundle's tensors. Every tensor must be there, in its shape, and no other one.

    Only `HARMLESS_KEYS` may be left over, and a tensor that the model shares under several names may be there once, as
    `safetensors.torch.save_model` writes it. Raises BundleError as `load_state_dict` does, and for any other
    difference.
    """
    state = load_state_dict(bundle)
    wanted = model.state_dict()
    for key in HARMLESS_KEYS - wanted.keys():
        state.pop(key, None)
    _complete_shared(state, wanted)
    faults = {
        "missing": sorted(wanted.keys() - state.keys()),
        "not part of it": sorted(state.keys() - wanted.keys()),
        "of another shape": sorted(k for k in wanted.keys() & state.keys() if wanted[k].shape != state[k].shape),
    }
    if any(faults.values()):
        listed = "; ".join(f"{len(keys)} {what}: {', '.join(keys[:5])}" for what, keys in faults.items() if keys)
        raise BundleError(f"{bundle.weights} does not fit the architecture {bundle.architecture!r}: {listed}.")
    model.load_state_dict(state, strict=True)


def _complete_shared(state: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Gives every name of a shared tensor the value that one of its names has."""
    known = {wanted[key].data_ptr(): key for key in state if key in wanted and wanted[key].numel()}
    for key in wanted.keys() - state.keys():
        if (source := known.get(wanted[key].data_ptr())) is not None and wanted[key].numel():
            state[key] = state[source]
