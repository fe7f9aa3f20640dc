"""Configurations: each file says what a run costs and what it reaches."""
