"""The 3D fully convolutional network of Wei et al. 2019, for any depth, width and number of inputs.

L hidden layers of 3×3×3 convolution with F filters and ReLU, then a linear 3×3×3 convolution to one
channel; 'same' padding throughout. With five inputs and L = 3 that is 60,577, 231,745 or 513,505
parameters for F = 32, 64, 96.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise

from flax import nnx

from flaxflair.networks.conv import conv3d
from flaxflair.networks.layers import Chain, as_functions, make_conv
from flaxflair.networks.network import Convolution, Network


def build(
    channels: int,
    *,
    layers: int = 3,
    filters: int = 64,
    dtype: str = "float32",
    convolution: Convolution = conv3d,
) -> Network:
    """Returns the network for a number of input sequences.

    Args:
      channels: input sequences, m.
      layers: hidden layers, L.
      filters: filters of each, F.
      dtype: arithmetic, a key of `network.ARITHMETIC`; parameters are float32.
      convolution: convolution function.
    """

    def create(rngs: nnx.Rngs) -> Chain:
        conv = partial(make_conv, dtype=dtype, convolution=convolution, rngs=rngs)
        widths = [channels, *([filters] * layers)]
        return Chain([conv(a, b) for a, b in pairwise(widths)], conv(filters, 1))

    return as_functions(create, radius=layers + 1)
