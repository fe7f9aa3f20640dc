"""Baselines: methods that are no network, each with the same `predict` as one."""
