"""Simulation: multiple-sclerosis MRI from anatomy and physics, written as a BIDS data set.

    anatomy     an individual head, as tissue fractions, from the ICBM152 template
    lesions     position, size, shape and severity of lesions
    relaxation  tissues at 3 T, and the signal equations
    scanner     grids, motion, bias, averaging, noise
    tissue_maps relaxation at every point of a head, and its signal
    subject     one subject, joined from these
    dataset     the files of a data set
    phantom     `write_phantom`, the entry point
    cache       the embedded data set, made once
    fields      random fields and seeded streams
    rigid       rotations and shifts

Independent of networks, training and preprocessing.
"""
