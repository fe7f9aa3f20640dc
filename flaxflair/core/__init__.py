"""Core: records with their axis legend, the pulse sequences, and atomic writing of files.

Independent of every other package, of image formats and of JAX.
"""
