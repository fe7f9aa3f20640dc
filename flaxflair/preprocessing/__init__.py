"""Preprocessing: raw scans become images on one grid, with a brain mask, checked on the way.

Independent of models and of what the prepared images serve for.
"""
