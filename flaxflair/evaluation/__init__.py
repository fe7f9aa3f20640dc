"""Evaluation: numbers from images: metrics, scores, statistics and lesion segmentation.

Independent of files, models and how an image was made.
"""
