"""The voxel-wise multilayer perceptron of Wei et al. 2019, a baseline without spatial context.

L hidden layers of F units with ReLU, then a linear unit, applied to the sequences of each voxel.
With five inputs, L = 2 and F = 100 that is 10,801 parameters.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise

from flax import nnx

from flaxflair.networks.layers import Chain, as_functions, make_linear
from flaxflair.networks.network import Network


def build(channels: int, *, layers: int = 2, filters: int = 100, dtype: str = "float32") -> Network:
    """Returns the network for a number of input sequences.

    Args:
      channels: input sequences, m.
      layers: hidden layers, L.
      filters: units of each, F.
      dtype: arithmetic, a key of `network.ARITHMETIC`; parameters are float32.
    """

    def create(rngs: nnx.Rngs) -> Chain:
        linear = partial(make_linear, dtype=dtype, rngs=rngs)
        widths = [channels, *([filters] * layers)]
        return Chain([linear(a, b) for a, b in pairwise(widths)], linear(filters, 1))

    return as_functions(create, radius=0)
