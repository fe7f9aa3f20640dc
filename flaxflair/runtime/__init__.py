"""Runtime: execution of a program: progress, signals, stages, processes, caches, environment.

Independent of images, models and what is computed.
"""
