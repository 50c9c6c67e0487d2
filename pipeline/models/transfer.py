"""Arrays to a device and back. For a GPU by page-locked memory, which it reads and writes without waiting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def stacked(arrays: Sequence[npt.NDArray[Any]], device: str) -> Tensor:
    """Arrays of one shape and type, as one tensor on `device`."""
    if torch.device(device).type != "cuda":
        return torch.from_numpy(np.stack(arrays)).to(device)
    empty = torch.from_numpy(np.empty((0, *arrays[0].shape), arrays[0].dtype))
    whole = torch.empty((len(arrays), *arrays[0].shape), dtype=empty.dtype, pin_memory=True)
    np.stack(arrays, out=whole.numpy())
    return whole.to(device, non_blocking=True)  # torch keeps the memory until the copy is done


def to_device(tensor: Tensor, device: str) -> Tensor:
    """A tensor of the host on `device`."""
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def to_host(*tensors: Tensor) -> list[npt.NDArray[Any]]:
    """Each as an array; waits once, for all of them together."""
    if not tensors[0].is_cuda:
        return [one.cpu().numpy() for one in tensors]
    copies = [torch.empty(one.shape, dtype=one.dtype, pin_memory=True) for one in tensors]
    for copy, one in zip(copies, tensors, strict=True):
        copy.copy_(one, non_blocking=True)
    torch.cuda.current_stream(tensors[0].device).synchronize()
    return [copy.numpy() for copy in copies]
