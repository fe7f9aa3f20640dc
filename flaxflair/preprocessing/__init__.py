"""Preprocessing: quality checks, brain extraction, bias correction and registration of raw scans.

The results are images on one grid and a brain mask. Independent of models.
"""
