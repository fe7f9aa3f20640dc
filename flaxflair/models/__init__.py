"""Models: saving, loading, prediction and saliency of fitted methods.

Independent of training, raw scans and whole data sets.
"""
