"""Ranges of everything the generator draws, with units and sources, in one typed record.

A pair is the interval of a uniform draw; a field that ends in `_sd` is a standard deviation; one
that ends in `_share` is a probability.

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
      warp_sd: mm, displacement of the knots of a cubic B-spline.
      warp_spacing: mm between knots.
      narrow_share: samples with narrow sulci, whose cortex is a millimetre thicker outwards; the
        label maps are of people with wide ones.
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
      t1_sd: of the logarithm of a class's T1 between people.
      t2_sd: likewise of T2.
      pd_sd: likewise of proton density.
      texture_t1_sd: of the logarithm of T1 within a tissue.
      texture_t2_sd: likewise of T2.
      texture_pd_sd: likewise of proton density.
      water: correlation of T1, T2 and proton density within a tissue.
      texture_mm: scales of the variation within a tissue; their shares of its variance are drawn.
      mixture_share: input images whose class means are scaled at random, beyond physics.
      mixture_sd: of the logarithm of that scale.
    """

    low_field_share: float = 0.35
    low_field_t1: Range = (0.68, 0.80)
    low_field_t2: Range = (1.0, 1.12)
    t1_sd: float = 0.06
    t2_sd: float = 0.06
    pd_sd: float = 0.03
    texture_t1_sd: Range = (0.02, 0.07)
    texture_t2_sd: Range = (0.02, 0.08)
    texture_pd_sd: Range = (0.0, 0.03)
    water: Range = (0.5, 0.95)
    texture_mm: tuple[float, float, float] = (16.0, 5.0, 1.2)
    mixture_share: float = 0.4
    mixture_sd: Range = (0.03, 0.2)


@dataclass(frozen=True)
class LesionRanges:
    """Lesions of multiple sclerosis, and what mimics them.

    Attributes:
      healthy_share: samples without lesions.
      native_share: samples that show the lesions of the label maps' own people.
      mask_share: samples whose lesions come from the mask of a whole patient.
      shape_share: samples that (also) have single lesions.
      count: single lesions in a window of 64 mm; drawn log-uniformly.
      scale: factor of a lesion's extent.
      edge: mm, SD of the Gaussian that softens a lesion's edge.
      halo: greatest part of normal-appearing white matter around a lesion that is lesion-like.
      halo_mm: how far it reaches, SD of a Gaussian.
      rim_share: samples with periventricular rims and caps.
      rim_mm: their thickness.
      severity: 0 is mild (T1 and T2 little longer), 1 a black hole.
      severity_sd: between places in one sample.
      t1: ms at 3 T at severities 0, 1/2 and 1.
      t2: likewise.
      pd: likewise, water = 1.
      isointense_share: samples whose T1 shows next to no lesion contrast.
      cavity_share: samples whose severest lesions have a fluid core.
      perivascular: enlarged perivascular spaces in a window.
      perivascular_mm: their radius.
      lacune_share: samples with lacunes.
      lacune_mm: their radius.
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
      volume_share: images of nearly isotropic voxels; others have thick slices.
      volume_mm: edges of nearly isotropic voxels.
      in_plane_mm: edges within thick slices.
      slice_mm: thickness of slices.
      gap: between slices, relative to their thickness.
      axial_share: thick slices that are axial; the others are sagittal or coronal.
      psf: SD of the point spread along each axis, relative to the voxel's edge.
      noise_sd: of either channel, relative to the white matter's signal.
      bias_sd: of the logarithm of the shading that bias correction has left.
      bias_mm: its scale.
      shift_mm: misregistration along each axis, SD.
      rotation: misregistration about each axis in degrees, SD.
      ghost_share: images with a ghost.
      ghost: its strength, relative to the image.
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
