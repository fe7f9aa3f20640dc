"""Fails unless the quick job reached what the README says of it."""

import json
import sys
from pathlib import Path

summary = json.loads(Path(sys.argv[1]).read_text())
fcn, line = summary["methods"]["fcn"], summary["methods"]["least_squares"]
truth = summary["truth"]["ratio1"]["mean"]
ratio = fcn["mse"]["mean"] / line["mse"]["mean"]
ours, theirs = (abs(m["ratio1"]["mean"] - truth) for m in (fcn, line))
print(
    f"MSE {ratio:.3f} of least squares'; Ratio 1 off by {ours:.3f}, least squares by {theirs:.3f}"
)
sys.exit(not (ratio <= 0.8 and ours < theirs))
