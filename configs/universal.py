"""The universal model: trained on simulated windows of 48 mm, any subset of the sequences.

A step of four windows takes about 2 s of processor time, 0.5 s of them for the simulation; tens of
thousands of steps are needed. `:tiny` is for trying the command: a few steps of a small network.
"""

from flaxflair.config.universal import ConditionalConfig, SynthesisConfig, UniversalConfig
from flaxflair.core.records import InputError


def get_config(variant: str = "") -> UniversalConfig:
    if variant == "":
        return UniversalConfig()
    if variant == "tiny":
        return UniversalConfig(
            network=ConditionalConfig(widths=(8, 12), fine=4),
            train=SynthesisConfig(steps=6, window=16, anatomies=2, warmup=2),
            save_every_seconds=30.0,
        )
    raise InputError(f"configs/universal.py has no variant {variant!r}; choose tiny or none")
