"""Models: fitted methods, saved, loaded and applied: prediction and saliency.

Independent of how they were fitted, of raw scans and of whole data sets.
"""
