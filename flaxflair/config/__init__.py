"""The typed configurations: what can be chosen, defaults, and what is refused.

Independent of flags, of files and of JAX.
"""

from flaxflair.config.run import (
    NETWORK,
    Config,
    NetworkConfig,
    PhantomConfig,
    validate,
)

__all__ = ["NETWORK", "Config", "NetworkConfig", "PhantomConfig", "validate"]
