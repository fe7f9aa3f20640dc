"""Input and output: NIfTI files, BIDS data sets in, derivatives out, files of other packages.

Independent of preprocessing, models and scores.
"""
