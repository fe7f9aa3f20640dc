"""What Wei et al. 2019 published, and what repeats it."""
