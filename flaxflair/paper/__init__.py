"""The reproduction of Wei et al. 2019: studies, tables, figures and the published values.

Independent of how a network is trained or an image scored; it runs whole jobs and
reads their results.
"""
