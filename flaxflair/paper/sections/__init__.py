"""Sections of the report: each table and figure, reproduced beside published.

Converts outcomes to blocks of a report and plain numbers. Writes only pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flaxflair.paper.sections.depth import make_fig3
from flaxflair.paper.sections.filters import make_table1
from flaxflair.paper.sections.inputs import make_table4a, make_table4b, make_table4c
from flaxflair.paper.sections.lesions import make_lesions
from flaxflair.paper.sections.material import Material, Numbers, SectionContent
from flaxflair.paper.sections.methods import make_table2, make_table3
from flaxflair.paper.sections.predictions import make_fig4, make_fig7
from flaxflair.paper.sections.saliency import make_fig6
from flaxflair.paper.studies import PARTS
from flaxflair.visualization.report import Badge, Section


def make_section(part: str, material: Material) -> tuple[Section, Numbers]:
    """Returns a part's section, and its numbers for programs; `part` is a key of `PARTS`."""
    blocks, numbers, names = _PARTS[part](material)
    return Section(part, PARTS[part], tuple(blocks), _badge(material, names)), numbers


def _badge(material: Material, names: Sequence[str]) -> Badge:
    folds = material.folds(names)
    config = material.studies[names[0]].config
    count = config.folds.count or len({s.participant for s in material.subjects.values()})
    which = f"fold {', '.join(str(fold + 1) for fold in folds)} of {count}"
    if len(folds) == count:
        which = f"all {count} folds"
    shape = "×".join(map(str, next(iter(material.subjects.values())).geometry.shape))
    complete = material.scale.variant == "" and len(folds) == count
    kind = "real" if not material.phantom else "full" if complete else "quick"
    width = material.scale.filters[64]
    return Badge(kind, f"{which}; {shape} voxels; FCN of {width} filters for the paper's 64")


_PARTS: dict[str, Callable[[Material], SectionContent]] = {
    "table1": make_table1,
    "fig3": make_fig3,
    "table2": make_table2,
    "table3": make_table3,
    "lesions": make_lesions,
    "fig4": make_fig4,
    "fig6": make_fig6,
    "table4a": make_table4a,
    "table4b": make_table4b,
    "table4c": make_table4c,
    "fig7": make_fig7,
}
