"""Builds the network that a bundle names."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from inference.bundle import is_plain
from inference.errors import BundleError


def build_network(network_def: dict[str, Any], *, trusted: bool = False) -> torch.nn.Module:
    """The network of a MONAI configuration such as `{"_target_": "monai.networks.nets.UNet", ...}`.

    Plain definitions call one of MONAI's constructors with literal arguments. Anything else goes
    through MONAI's ConfigParser, which can run code, and only when `trusted`.

    Raises BundleError when the definition is neither plain nor trusted, or does not build.
    """
    try:
        if is_plain(network_def):
            return _call_constructor(network_def)
        if trusted:
            return _parse(network_def)
    except Exception as error:  # MONAI's constructors raise KeyError and AssertionError too
        raise BundleError(f"network {network_def.get('_target_')!r} cannot be built: {error}") from error
    raise BundleError(f"network {network_def.get('_target_')!r} needs a trusted bundle")


def _call_constructor(network_def: dict[str, Any]) -> torch.nn.Module:
    module_name, _, class_name = network_def["_target_"].rpartition(".")
    constructor = getattr(importlib.import_module(module_name), class_name)
    network = constructor(**{k: v for k, v in network_def.items() if k != "_target_"})
    assert isinstance(network, torch.nn.Module)
    return network


def _parse(network_def: dict[str, Any]) -> torch.nn.Module:
    from monai.bundle import ConfigParser

    network = ConfigParser({"network_def": network_def}).get_parsed_content("network_def")
    if not isinstance(network, torch.nn.Module):
        raise TypeError("network_def does not build a torch module")
    return network
