"""Input and output: NIfTI files, BIDS data sets and derivatives, and files of other packages.

Independent of preprocessing, models and scores.
"""
