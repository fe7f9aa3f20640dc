"""Generator of training data: windows of simulated heads as inputs of a conditional network.

    ranges       ranges of all random parameters, with units and sources, in one typed record
    classes      tissue classes and their relaxation
    anatomies    reading of label maps of heads and of lesions of patients
    storage      the same as arrays shared by processes
    window       a box of a deformed head
    lesions      lesions, and structures that mimic them
    contrasts    pulse sequences
    acquisition  voxels, noise, motion, bias
    generator    `sample`, which combines these
    splines      smooth random fields, and linear maps of a window's axes

To add a contrast, add a line to `contrasts.TIMINGS`; to add a kind of lesion, a function to
`lesions` and its ranges to `ranges`. Independent of networks and training.
"""
