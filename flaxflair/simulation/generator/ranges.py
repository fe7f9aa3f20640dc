"""Ranges of all random parameters of the generator, with units and sources, in one typed record.

A pair is the interval of a uniform distribution, a field with suffix `_sd` a standard deviation,
and one with suffix `_share` a probability.

Sources: Stanisz et al., Magn. Reson. Med. 54:507 (2005), and Gelman et al., Magn. Reson. Med. 45:71
(2001), for relaxation and its spread; Billot et al., Med. Image Anal. 86:102789 (2023), for the
extent of deformation, bias and resolution; Filippi et al., Brain 142:1858 (2019), for lesions.
Fields marked *chosen* were set by comparing samples with clinical scans.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Range = tuple[float, float]


@dataclass(frozen=True)
class AnatomyRanges:
    """Shape of a head.

    Attributes:
      rotation: degrees about each axis.
      scale: factor along each axis.
      shear: tangent of the angle.
      warp_sd: displacement of the knots of a cubic B-spline, mm.
      warp_spacing: distance of the knots, mm.
      narrow_share: samples with narrow sulci, by a cortex that extends 1 mm further outwards; the
        subjects of the label maps have wide sulci.
    """

    rotation: Range = (-15.0, 15.0)
    scale: Range = (0.9, 1.12)
    shear: Range = (-0.04, 0.04)
    warp_sd: Range = (0.5, 3.5)
    warp_spacing: float = 20.0
    narrow_share: float = 0.6


@dataclass(frozen=True)
class TissueRanges:
    """Relaxation of tissues.

    Attributes:
      low_field_share: samples at 1.5 T.
      low_field_t1: T1 at 1.5 T, relative to 3 T.
      low_field_t2: T2 at 1.5 T, relative to 3 T.
      person_sd: of the logarithms of T1 and T2 between people, common to all classes.
      t1_sd: of the logarithm of a class's T1 relative to the other classes of a person. Grey over
        white matter of the target FLAIR then varies by 6 %, as among scanned FLAIRs; its
        cause is not visible in inputs whose tissue levels are standardised.
      t2_sd: likewise of T2.
      pd_sd: likewise of proton density.
      texture_t1_sd: of the logarithm of T1 within a tissue.
      texture_t2_sd: likewise of T2.
      texture_pd_sd: likewise of proton density.
      water: correlation of T1, T2 and proton density within a tissue.
      texture_mm: scales of the variation within a tissue.
      texture_shares: concentrations of the Dirichlet distribution of the scales' shares of the
        variance. *Chosen*: variation of the finest scale looks like noise, which the target FLAIR
        does not have.
      mixture_share: input images whose class means are multiplied by random factors.
      mixture_sd: of the logarithm of those factors.
    """

    low_field_share: float = 0.35
    low_field_t1: Range = (0.68, 0.80)
    low_field_t2: Range = (1.0, 1.12)
    person_sd: float = 0.05
    t1_sd: float = 0.03
    t2_sd: float = 0.025
    pd_sd: float = 0.015
    texture_t1_sd: Range = (0.02, 0.07)
    texture_t2_sd: Range = (0.02, 0.06)
    texture_pd_sd: Range = (0.0, 0.03)
    water: Range = (0.5, 0.95)
    texture_mm: tuple[float, float, float] = (16.0, 5.0, 1.2)
    texture_shares: tuple[float, float, float] = (1.0, 1.0, 0.3)
    mixture_share: float = 0.4
    mixture_sd: Range = (0.03, 0.2)


@dataclass(frozen=True)
class LesionRanges:
    """Lesions of multiple sclerosis, and what mimics them.

    Attributes:
      healthy_share: samples without lesions, except for rims and caps.
      native_share: samples with the lesions of the label map's subject.
      mask_share: samples with the lesions of a whole patient.
      shape_share: samples with (additional) single lesions.
      count: number of single lesions in a window of 64 mm; log-uniform.
      scale: scale factor of a lesion.
      edge: SD of the Gaussian that smooths a lesion's edge, mm.
      halo: maximum lesion-like fraction of normal-appearing white matter around a lesion.
      halo_mm: extent of the halo, SD of a Gaussian, mm.
      rim_share: samples with periventricular rims and caps.
      rim_mm: thickness of the rims, mm.
      severity: 0 is mild (T1 and T2 slightly longer), 1 a black hole.
      severity_sd: variation of the severity within a sample.
      t1: ms at 3 T at severities 0, 1/2 and 1.
      t2: likewise.
      pd: likewise, water = 1.
      isointense_share: samples with almost no lesion contrast on T1.
      cavity_share: samples whose most severe lesions have a fluid core.
      perivascular: number of enlarged perivascular spaces in a window of 64 mm.
      perivascular_mm: radius of perivascular spaces, mm.
      lacune_share: samples with lacunes.
      lacune_mm: radius of lacunes, mm.
    """

    healthy_share: float = 0.2
    native_share: float = 0.6
    mask_share: float = 0.7
    shape_share: float = 0.55
    count: Range = (1.0, 14.0)
    scale: Range = (0.6, 1.5)
    edge: Range = (0.4, 1.1)
    halo: Range = (0.0, 0.35)
    halo_mm: Range = (2.0, 5.0)
    rim_share: float = 0.35
    rim_mm: Range = (0.8, 4.0)
    severity: Range = (0.0, 0.8)
    severity_sd: Range = (0.05, 0.3)
    t1: tuple[float, float, float] = (1100.0, 1350.0, 2300.0)
    t2: tuple[float, float, float] = (90.0, 110.0, 185.0)
    pd: tuple[float, float, float] = (0.77, 0.83, 0.94)
    isointense_share: float = 0.12
    cavity_share: float = 0.08
    perivascular: Range = (0.0, 10.0)
    perivascular_mm: Range = (0.4, 1.0)
    lacune_share: float = 0.1
    lacune_mm: Range = (1.5, 5.0)


@dataclass(frozen=True)
class ScannerRanges:
    """Acquisition and preparation of one image.

    Attributes:
      volume_share: images with nearly isotropic voxels; others have thick slices.
      volume_mm: edges of nearly isotropic voxels.
      in_plane_mm: edges within thick slices.
      slice_mm: thickness of slices.
      gap: between slices, relative to their thickness.
      axial_share: thick slices that are axial; the others are sagittal or coronal.
      psf: SD of the point spread along each axis, relative to the voxel's edge.
      noise_sd: of either channel, relative to the white matter's signal.
      bias_sd: of the logarithm of the residual bias field after correction.
      bias_mm: scale of the residual bias field, mm.
      shift_mm: misregistration along each axis, SD.
      rotation: misregistration about each axis in degrees, SD.
      ghost_share: images with a ghost.
      ghost: intensity of the ghost relative to the image.
      gamma_sd: of the logarithm of an exponent applied to normalised intensities.
      level_sd: of the logarithm of the error of a tissue's level, for fluid, grey and white.
      stripped_share: samples whose images are zero outside the brain.
      mask_mm: SD of the error of the brain mask's edge.
    """

    volume_share: float = 0.45
    volume_mm: Range = (0.8, 1.3)
    in_plane_mm: Range = (0.45, 1.1)
    slice_mm: Range = (2.0, 7.0)
    gap: Range = (0.0, 0.3)
    axial_share: float = 0.75
    psf: Range = (0.2, 0.6)
    noise_sd: Range = (0.005, 0.06)
    bias_sd: Range = (0.0, 0.08)
    bias_mm: float = 50.0
    shift_mm: float = 0.3
    rotation: float = 0.3
    ghost_share: float = 0.1
    ghost: Range = (0.01, 0.08)
    gamma_sd: float = 0.04
    level_sd: tuple[float, float, float] = (0.08, 0.025, 0.02)
    stripped_share: float = 0.6
    mask_mm: Range = (0.0, 1.0)


@dataclass(frozen=True)
class Ranges:
    """All ranges of the generator.

    Attributes:
      anatomy: shape of a head.
      tissue: relaxation.
      lesion: lesions and mimics.
      scanner: acquisition and preparation.
    """

    anatomy: AnatomyRanges = field(default_factory=AnatomyRanges)
    tissue: TissueRanges = field(default_factory=TissueRanges)
    lesion: LesionRanges = field(default_factory=LesionRanges)
    scanner: ScannerRanges = field(default_factory=ScannerRanges)
