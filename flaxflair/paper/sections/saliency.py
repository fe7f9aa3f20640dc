"""Figure 6: saliency, beside the cost of removing a sequence."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from flaxflair.evaluation.statistics import rank_agreement
from flaxflair.paper import published
from flaxflair.paper.sections.material import Material, Numbers, SectionContent
from flaxflair.paper.studies import name_subset
from flaxflair.paper.tables import format_number
from flaxflair.visualization.report import Block, Group, Note, Paragraph, Picture, Table


def make_fig6(material: Material) -> SectionContent:
    """Returns Figure 6: saliency, and its agreement with what removal costs."""
    mean = _mean_shares(material)
    drawn = sorted(material.outcomes["fcn"].folder.glob("fold-*/*_p3s.png"))
    blocks: list[Block] = [
        Picture(
            path,
            f"Saliency of each sequence (above) and the sequence (below), "
            f"{path.name.removesuffix('_p3s.png')}; one scale for all maps.",
            "Saliency maps of each input sequence above the sequence itself.",
        )
        for path in drawn[:1]
    ]
    rows = tuple(
        (region, *(format_number(value, 3) for value in shares.values()))
        for region, shares in mean.items()
    )
    blocks.append(
        Table("Share of the saliency, mean over subjects", ("region", *material.sequences), rows)
    )
    blocks.append(
        Paragraph(
            "Published, in words: T1, DIR and T2 contribute more than PD and T1 spin-echo, DIR "
            "most; T1 more than the others to the ventricles."
        )
    )
    removed = {
        name: name_subset("fcn", [s for s in material.sequences if s != name])
        for name in material.sequences
    }
    numbers: Numbers = {"shares": mean}
    if all(study in material.outcomes for study in removed.values()):
        more, found = _compare_with_removal(material, mean["volume"], removed)
        blocks += more
        numbers |= found
    return blocks, numbers, ["fcn"]


def _mean_shares(material: Material) -> dict[str, dict[str, float]]:
    """Returns region -> sequence -> mean share of the saliency, of regions that subjects have."""
    fcn = material.outcomes["fcn"]
    regions = list(next(iter(fcn.shares.values())))
    return {
        region: {
            name: float(np.nanmean([shares[region][name] for shares in fcn.shares.values()]))
            for name in material.sequences
        }
        for region in regions
        if any(math.isfinite(v) for shares in fcn.shares.values() for v in shares[region].values())
    }


def _compare_with_removal(
    material: Material, share: Mapping[str, float], removed: Mapping[str, str]
) -> tuple[list[Block], Numbers]:
    """Returns the cost of removing each sequence beside its share of the saliency.

    Args:
      material: with the studies named.
      share: sequence -> share of the saliency of the whole volume.
      removed: sequence -> study without it.
    """
    folds = material.folds(["fcn", *removed.values()])
    base = material.result("fcn", "mse", folds).mean
    loss = {
        name: material.result(study, "mse", folds).mean / base - 1
        for name, study in removed.items()
    }
    printed = {n: published.WITHOUT[n].mean / published.MSE["fcn"].mean - 1 for n in loss}
    shares = np.array([share[name] for name in loss])
    found = rank_agreement(shares, np.array(list(loss.values())))
    agreed = rank_agreement(shares, np.array(list(printed.values())))
    rows = tuple(
        (
            name,
            format_number(share[name], 3),
            format_number(100 * loss[name], 1, sign=True),
            format_number(100 * printed[name], 1, sign=True),
        )
        for name in loss
    )
    table = Table(
        "What removing a sequence costs, beside its saliency",
        ("sequence", "share of the saliency", "MSE without it, %", "MSE without it, %"),
        rows,
        (Group("ours", 2), Group("published", 1)),
        f"Rank agreement of saliency and loss of accuracy over {found.n} sequences: "
        f"Spearman {found.rho:.2f}, Kendall {found.tau:.2f}; with the published losses "
        f"{agreed.rho:.2f} and {agreed.tau:.2f}.",
    )
    note = Note(
        "The paper reports that saliency agrees with the cost of removal. Saliency is a gradient "
        "of the trained network: two sequences with the same information share it, although "
        "removing either of them alone costs nothing."
    )
    numbers = {
        "loss": loss,
        "agreement": found._asdict(),
        "agreement_published": agreed._asdict(),
    }
    return [table, note], numbers
