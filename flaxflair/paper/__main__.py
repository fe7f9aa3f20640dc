"""Command-line flags of the reproduction: `python -m flaxflair.paper --scale=quick`."""

from __future__ import annotations

import sys
from pathlib import Path

from absl import app, flags

from flaxflair.core.records import InputError
from flaxflair.runtime.entry_point import command
from flaxflair.runtime.huge_pages import start_with_huge_pages

_SCALE = flags.DEFINE_enum(
    "scale",
    "quick",
    ["quick", "full", "real"],
    "quick: hours on two cores; full: the paper's own size, for a GPU; real: scans at 1 mm.",
)
_WORKDIR = flags.DEFINE_string("workdir", "paper", "Folder of the reproduction.")
_ROOT = flags.DEFINE_string("root", "", "Prepared BIDS data set; by default the phantom.")
_ONLY = flags.DEFINE_list("only", [], "Parts to make, such as table2,fig6; by default all.")
_JOBS = flags.DEFINE_integer(
    "jobs", None, "Studies side by side; by default one a core at the quick scale, else 1."
)


def main(argv: list[str]) -> None:
    """Runs the reproduction that the flags describe."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    with command() as console:
        # Imports JAX: only after the restart with huge pages.
        from flaxflair.paper.reproduce import reproduce
        from flaxflair.paper.studies import PARTS, SCALES, load_config
        from flaxflair.runtime.progress import show_bar
        from flaxflair.simulation.cache import open_phantom

        unknown = [part for part in _ONLY.value if part not in PARTS]
        if unknown:
            raise InputError(f"--only: {unknown[0]!r} is no part; choose from {', '.join(PARTS)}")
        scale = SCALES[_SCALE.value]
        if _ROOT.value:
            source = Path(_ROOT.value)
        elif _SCALE.value == "real":
            raise InputError("--scale=real needs scans; name a prepared data set with --root")
        else:
            phantom = load_config("fcn", scale.variant).data.phantom
            with show_bar(console, "phantom", phantom.subjects, 0) as bar:
                source = open_phantom(phantom, bar.advance)
        reproduce(
            _SCALE.value,
            scale,
            Path(_WORKDIR.value),
            source,
            root=_ROOT.value,
            parts=_ONLY.value,
            jobs=_JOBS.value,
            command=["python", "-m", "flaxflair.paper", *sys.argv[1:]],
            console=console,
        )


def start() -> None:
    """Parses flags and runs."""
    start_with_huge_pages()
    app.run(main)


if __name__ == "__main__":
    start()
