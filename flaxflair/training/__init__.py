"""Training: batches, losses, steps, folds and early stopping, on one device or on many.

Independent of files except checkpoints, and of scoring and visualization.
"""
