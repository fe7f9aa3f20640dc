"""What a universal training changes: the weights of the FLAIR, or those of its error scale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import optax

from flaxflair.config.universal import UniversalConfig
from flaxflair.core.records import InputError
from flaxflair.models import checkpoints
from flaxflair.models.error_scale import ErrorScale, scale_inputs, scale_network, to_scale
from flaxflair.models.saving import load_model
from flaxflair.models.universal import UniversalModel, make_network
from flaxflair.networks.network import ConditionalNetwork, Params
from flaxflair.training.scale_step import make_scale_step
from flaxflair.training.universal_step import SynthesisStep, make_synthesis_step


class Target(NamedTuple):
    """What a training changes.

    Attributes:
      params: first parameters.
      step: the training step.
      to_model: (averaged parameters, steps done) -> the model.
    """

    params: Params
    step: SynthesisStep
    to_model: Callable[[Params, int], UniversalModel]


def open_target(config: UniversalConfig, optimizer: optax.GradientTransformation) -> Target:
    """Returns what `config.train.target` names.

    Args:
      config: validated.
      optimizer: from `make_synthesis_optimizer`.

    Raises:
      InputError: `config.train.start` is not a universal model of the configured network.
    """
    return {"flair": _open_flair, "scale": _open_scale}[config.train.target](config, optimizer)


def _open_flair(config: UniversalConfig, optimizer: optax.GradientTransformation) -> Target:
    network = make_network(config.network)

    def to_model(params: Params, steps: int) -> UniversalModel:
        about = {
            "Steps": steps,
            "SimulatedWindows": config.train.anatomies * config.train.contrasts,
            "RealWindows": config.train.real,
            "Edge": config.train.window,
            "StartedFrom": Path(config.train.start).name,
        }
        return UniversalModel(config.network, network, params, about)

    params = _first_params(config, network)
    return Target(params, make_synthesis_step(network, optimizer), to_model)


def _open_scale(config: UniversalConfig, optimizer: optax.GradientTransformation) -> Target:
    model, network = _open_start(config), scale_network()
    if model.scale is None:
        params = network.init(jax.random.key(config.train.seed))
    else:
        params = model.scale.params
    forward = partial(model.network.forward, model.params)
    step = make_scale_step(forward, network, scale_inputs, to_scale, optimizer)
    return Target(params, step, lambda new, steps: replace(model, scale=ErrorScale(new)))


def _open_start(config: UniversalConfig) -> UniversalModel:
    model = load_model(config.train.start)
    # The network may have a new branch, whose output is zero before training.
    if not isinstance(model, UniversalModel) or (
        replace(model.config, fine=config.network.fine) != config.network
    ):
        raise InputError(
            f"{config.train.start}: is not a universal model of the network that config.network "
            "describes; name one, or change config.network"
        )
    return model


def _first_params(config: UniversalConfig, network: ConditionalNetwork) -> Params:
    """Returns random parameters, or those of the model that training starts from."""
    first = network.init(jax.random.key(config.train.seed))
    if not config.train.start:
        return first
    known = checkpoints.name_leaves(_open_start(config).params)
    names = checkpoints.name_leaves(first)
    leaves = [
        known[name] if name in known and known[name].shape == leaf.shape else leaf
        for name, leaf in names.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(first), leaves)
