"""Pipelines: complete jobs from files to files: prediction, cross-validation, summary of a run.

Independent of flags and of the paper's tables.
"""
