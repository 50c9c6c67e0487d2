"""On a GPU no tensor of the host meets one of the device: the passes run on tensors that only claim to be on one.

Nothing is computed, so this says nothing of answers; it needs no GPU, and finds what would end the first run on one.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from segment_anything.modeling import Sam
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.models import precision, sam, sam_attention, sam_decoder, sam_upsampling
from pipeline.models.architectures import segmenter_architecture
from pipeline.stages import Embedding

ARCH = segmenter_architecture("sam-tiny")
SIDE = ARCH.embedding_size


def claimed(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")


def claim(model: torch.nn.Module) -> None:
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = torch.nn.Parameter(claimed(parameter), requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = claimed(buffer)


def small_sam(dtype: torch.dtype) -> Sam:
    model = sam.build(ARCH)
    precision.lower(model.image_encoder, dtype)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_segmenter(dtype: torch.dtype) -> None:
    model = small_sam(dtype)
    embedding = Embedding(np.zeros((1, 1, 1), np.float32), input_size=(288, 384), image_size=(121, 160))
    with FakeTensorMode(), torch.inference_mode():
        claim(model)
        images = torch.empty(2, 3, ARCH.image_size, ARCH.image_size, device="cuda")
        ways: tuple[sam_attention.Way, ...] = ("joined", "bias")
        for way in ways:
            features = sam.encode_images(model.image_encoder, images, way)
            assert (features.device.type, features.dtype) == ("cuda", torch.float32)
        boxes = torch.empty(3, 4, device="cuda")
        sparse, dense = model.prompt_encoder(points=None, boxes=boxes, masks=None)
        index = torch.zeros(3, dtype=torch.int64, device="cuda")
        pe = model.prompt_encoder.get_dense_pe()
        logits, scores = sam_decoder.predict_masks(model.mask_decoder, features, index, pe, sparse, dense)
        assert (logits.shape, scores.shape) == ((3, 4, 4 * SIDE, 4 * SIDE), (3, 4))
        bits = sam_upsampling.packed(logits[:, 0].float(), embedding, ARCH.image_size)
        assert (bits.device.type, bits.dtype, tuple(bits.shape)) == ("cuda", torch.uint8, (3, 160, 16))
