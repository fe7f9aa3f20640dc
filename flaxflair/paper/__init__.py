"""The reproduction of Wei et al. 2019: studies, tables, figures and the published values.

Runs whole jobs and reads their results. Independent of training and scoring.
"""
