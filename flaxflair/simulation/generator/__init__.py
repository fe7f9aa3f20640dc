"""The generator of training data: windows of simulated heads, as a conditional network sees them.

    ranges       everything that is drawn, with units and sources, in one typed record
    classes      tissue classes and their relaxation
    anatomies    label maps of heads and lesions of patients, read
    storage      the same as arrays that processes share
    window       a cube of a deformed head
    lesions      lesions, and what mimics them
    contrasts    pulse sequences
    acquisition  voxels, noise, motion, shading
    generator    `sample`, which joins these
    splines      smooth random fields, and linear maps of a window's axes

To add a contrast, add a line to `contrasts.TIMINGS`; to add a kind of lesion, a function to
`lesions` and its ranges to `ranges`. Independent of networks and training.
"""
