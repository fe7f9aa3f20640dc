"""Imaging: functions of image arrays, from orientation and resampling to normalisation.

Independent of files, data sets, networks and the configuration of a run.
"""
