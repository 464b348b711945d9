"""What can be trained: the networks of the comparison, each of a size that a CPU can fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from training.errors import ExperimentError

NetworkDef = dict[str, Any]
WindowSize = tuple[int, ...]
Build = Callable[[int, int, int, WindowSize], NetworkDef]
"""(spatial_dims, in_channels, out_channels, window_size) -> the network as a MONAI configuration."""

SMALLEST_MAP = 4
"""nnU-Net halves an axis as long as this many pixels are left."""
MOST_HALVINGS = 5
RESENC_CHANNELS = (16, 32, 64, 128, 224, 224)
UNET_CHANNELS = (24, 48, 96, 192, 256)


@dataclass(frozen=True)
class NetworkFamily:
    """One kind of method. `build` is None for those that are no network."""

    name: str
    title: str
    paper: str
    build: Build | None
    dims: tuple[int, ...] = (2, 3)
    window_multiple: int = 1
    """Every side of the window must be a multiple of it."""

    @property
    def traditional(self) -> bool:
        """Whether it is fitted without a network."""
        return self.build is None


def _unet(spatial_dims: int, in_channels: int, out_channels: int, _: WindowSize) -> NetworkDef:
    return {
        "_target_": "monai.networks.nets.UNet",
        "spatial_dims": spatial_dims,
        "in_channels": in_channels,
        "out_channels": out_channels,
        "channels": list(UNET_CHANNELS),
        "strides": [2, 2, 2, 2],
        "num_res_units": 2,
        "norm": _norm(spatial_dims),
        "act": "leakyrelu",
    }


def _attention_unet(spatial_dims: int, in_channels: int, out_channels: int, _: WindowSize) -> NetworkDef:
    return {
        "_target_": "monai.networks.nets.AttentionUnet",
        "spatial_dims": spatial_dims,
        "in_channels": in_channels,
        "out_channels": out_channels,
        "channels": list(UNET_CHANNELS),
        "strides": [2, 2, 2, 2],
    }


def _fcn(spatial_dims: int, in_channels: int, out_channels: int, _: WindowSize) -> NetworkDef:
    return {
        "_target_": "inference.networks.fcn.FCN",
        "spatial_dims": spatial_dims,
        "in_channels": in_channels,
        "out_channels": out_channels,
        "channels": [32, 64, 128, 256, 256] if spatial_dims == 2 else [24, 48, 96, 192],
        "norm": _norm(spatial_dims),
    }


def _deeplab(spatial_dims: int, in_channels: int, out_channels: int, window: WindowSize) -> NetworkDef:
    """The largest rate spans as much of the window as in the paper: 18 of 33 pixels at stride 16."""
    stride = 8
    rate = max(1, round(6 / 33 * min(window) / stride))
    return {
        "_target_": "inference.networks.deeplab.DeepLabV3Plus",
        "spatial_dims": spatial_dims,
        "in_channels": in_channels,
        "out_channels": out_channels,
        "channels": [32, 64, 128, 192],
        "output_stride": stride,
        "rates": [rate, 2 * rate, 3 * rate],
        "norm": _norm(spatial_dims),
    }


def _resenc_unet(spatial_dims: int, in_channels: int, out_channels: int, window: WindowSize) -> NetworkDef:
    """Against nnU-Net: one residual block in each stage of the encoder, and fewer channels."""
    kernels, strides = plan_stages(window)
    return {
        "_target_": "monai.networks.nets.DynUNet",
        "spatial_dims": spatial_dims,
        "in_channels": in_channels,
        "out_channels": out_channels,
        "kernel_size": kernels,
        "strides": strides,
        "upsample_kernel_size": strides[1:],
        "filters": list(RESENC_CHANNELS[: len(strides)]),
        "norm_name": ["instance", {"affine": True}],
        "act_name": ["leakyrelu", {"inplace": True, "negative_slope": 0.01}],
        "res_block": True,
        "deep_supervision": True,
        "deep_supr_num": min(3, len(strides) - 2),
    }


def _segresnet(spatial_dims: int, in_channels: int, out_channels: int, _: WindowSize) -> NetworkDef:
    return {
        "_target_": "monai.networks.nets.SegResNet",
        "spatial_dims": spatial_dims,
        "in_channels": in_channels,
        "out_channels": out_channels,
        "init_filters": 16,
        "blocks_down": [1, 2, 2, 4],
        "blocks_up": [1, 1, 1],
    }


def _mednext(spatial_dims: int, in_channels: int, out_channels: int, _: WindowSize) -> NetworkDef:
    return {
        "_target_": "monai.networks.nets.MedNeXt",
        "spatial_dims": spatial_dims,
        "in_channels": in_channels,
        "out_channels": out_channels,
        "init_filters": 16,
        "kernel_size": 3,
        "encoder_expansion_ratio": 2,
        "decoder_expansion_ratio": 2,
        "bottleneck_expansion_ratio": 2,
        "blocks_down": [2, 2, 2, 2],
        "blocks_bottleneck": 2,
        "blocks_up": [2, 2, 2, 2],
        "use_residual_connection": True,
    }


def _norm(spatial_dims: int) -> str:
    """3-D batches are too small for their mean to say much."""
    return "batch" if spatial_dims == 2 else "instance"


CATALOGUE = {
    family.name: family
    for family in (
        NetworkFamily(
            "unet",
            "U-Net with residual units",
            "Ronneberger et al., MICCAI 2015; Kerfoot et al., STACOM 2018",
            _unet,
            window_multiple=16,
        ),
        NetworkFamily("fcn", "FCN-8s", "Long et al., CVPR 2015", _fcn),
        NetworkFamily(
            "attention-unet",
            "Attention U-Net",
            "Oktay et al., MIDL 2018",
            _attention_unet,
            window_multiple=16,
        ),
        NetworkFamily("deeplabv3plus", "DeepLabV3+", "Chen et al., ECCV 2018", _deeplab),
        NetworkFamily(
            "resenc-unet",
            "Residual-encoder U-Net",
            "Isensee et al., Nature Methods 2021 and MICCAI 2024",
            _resenc_unet,
        ),
        NetworkFamily("segresnet", "SegResNet", "Myronenko, BrainLes 2018", _segresnet, window_multiple=8),
        NetworkFamily("mednext", "MedNeXt-S", "Roy et al., MICCAI 2023", _mednext, window_multiple=16),
        NetworkFamily("handcrafted", "Handcrafted features + random forest", "Breiman, 2001", None),
    )
}


def network_def(
    name: str, spatial_dims: int, in_channels: int, out_channels: int, window_size: WindowSize
) -> NetworkDef:
    """The definition of the network `name` of the catalogue, for a bundle or an experiment.

    Raises ExperimentError when there is no such network, or `window_size` (pixels, one number per
    spatial dimension) does not suit it.
    """
    known = [family.name for family in CATALOGUE.values() if family.build is not None]
    family = CATALOGUE.get(name)
    if family is None or family.build is None:
        raise ExperimentError(f"there is no network {name!r}; take one of {', '.join(known)}")
    if spatial_dims not in family.dims or len(window_size) != spatial_dims:
        raise ExperimentError(
            f"network {name!r} takes {' or '.join(map(str, family.dims))} dimensions and as many numbers in "
            f"window_size: not {spatial_dims} and {window_size}"
        )
    if any(size < 1 or size % family.window_multiple for size in window_size):
        raise ExperimentError(
            f"network {name!r}: window_size {window_size} must be of multiples of {family.window_multiple}"
        )
    return family.build(spatial_dims, in_channels, out_channels, window_size)


def plan_stages(window_size: WindowSize) -> tuple[list[list[int]], list[list[int]]]:
    """Kernel sizes and strides of a U-Net's stages for a window, in the manner of nnU-Net.

    An axis is halved while it is even and 4 pixels or more are left; an axis that is shorter than
    half of the longest one waits, and its kernel stays 1 so long. nnU-Net decides the latter from the
    spacing; its windows are short along the axis with the coarse one. Isensee et al., Nature Methods
    2021, supplementary note 2. Raises ExperimentError when the window cannot be halved twice.
    """
    size = list(window_size)
    kernels, strides = [], [[1] * len(size)]
    for _ in range(MOST_HALVINGS):
        waits = [2 * pixels <= max(size) for pixels in size]
        kernels.append([1 if wait else 3 for wait in waits])
        stride = [
            2 if not wait and pixels % 2 == 0 and pixels >= 2 * SMALLEST_MAP else 1
            for pixels, wait in zip(size, waits, strict=True)
        ]
        if set(stride) == {1}:
            break
        strides.append(stride)
        size = [pixels // by for pixels, by in zip(size, stride, strict=True)]
    else:
        kernels.append([3] * len(size))
    if len(strides) < 3:
        raise ExperimentError(
            f"window_size {window_size} cannot be halved twice: make its longer sides multiples of 4, from 16"
        )
    return kernels, strides


def count_parameters(network: torch.nn.Module) -> int:
    """Numbers that training changes."""
    return sum(weight.numel() for weight in network.parameters() if weight.requires_grad)


def count_flops(network: torch.nn.Module, input_shape: tuple[int, ...]) -> int:
    """Multiply-adds of one forward pass in eval mode over zeros of `input_shape` (n, channel, ...).

    One multiplication with its addition counts as 1, as in the papers on networks; torch counts 2.
    Convolutions and matrix products only: norms, activations and resizing are left out.
    """
    training = network.training
    device = next(network.parameters()).device
    counter = FlopCounterMode(display=False)
    network.eval()
    try:
        with torch.no_grad(), counter:
            network(torch.zeros(input_shape, device=device))
    finally:
        network.train(training)
    return int(counter.get_total_flops()) // 2
