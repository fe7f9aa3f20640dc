"""Visualization: figures, pages and reports.

Independent of training and of how an image was computed.
"""
