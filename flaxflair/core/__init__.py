"""Core: data records with their axis legend, pulse sequences, and atomic writing of files.

Independent of every other package, of image formats and of JAX.
"""
