"""Results as printed in Wei et al. 2019, J. Med. Imaging 6(1), 014005.

The mean squared errors are in the squared intensity units of their scanner: only ratios between
methods are comparable, not values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Published(NamedTuple):
    """One printed result.

    Attributes:
      mean: average over folds, or the only value printed.
      sd: standard deviation.
      folds: the five folds' means; empty where the paper prints no folds.
      folds_sd: their standard deviations.
    """

    mean: float
    sd: float
    folds: tuple[float, ...] = ()
    folds_sd: tuple[float, ...] = ()


class Width(NamedTuple):
    """One row of Table 1: the FCN with a number of filters.

    Attributes:
      mse: mean squared error.
      parameters: as printed, to the hundred.
      seconds: to predict one volume on a GeForce GTX TITAN X.
    """

    mse: Published
    parameters: int
    seconds: float


# Method -> its name in the paper's tables.
METHODS: Mapping[str, str] = {
    "forest": "Random Forest 60",
    "propagation": "Modality Propagation",
    "mlp": "Multilayer Perceptron",
    "unet": "U-Net",
    "fcn": "Our Method",
}

# Table 1, filters -> row. The FCN of 64 filters that the text describes has 231,745 parameters: the
# printed 213.7 K is a transposition of 231.7 K.
WIDTHS: Mapping[int, Width] = {
    32: Width(Published(1094.52, 49.46), 60_600, 0.72),
    64: Width(Published(918.07, 41.70), 213_700, 1.34),
    96: Width(Published(909.84, 38.68), 513_500, 2.58),
}

# Fig. 3, hidden layers whose learning curves are drawn; no value is printed.
LAYERS = (2, 3, 4, 6)

# Table 2 (a), method -> mean squared error.
MSE: Mapping[str, Published] = {
    "forest": Published(
        983.22,
        80.99,
        (993.68, 1056.76, 945.38, 932.67, 987.63),
        (67.21, 125.51, 59.42, 74.48, 78.34),
    ),
    "propagation": Published(
        2085.53,
        156.80,
        (2194.79, 2037.69, 1987.32, 2273.58, 1934.25),
        (118.73, 151.23, 156.11, 217.85, 140.06),
    ),
    "mlp": Published(
        1273.22,
        124.70,
        (1532.89, 1236.53, 1169.78, 1023.35, 1403.57),
        (135.82, 100.95, 142.43, 97.93, 146.35),
    ),
    "unet": Published(
        919.26, 40.95, (921.69, 912.03, 916.16, 938.34, 908.11), (38.51, 38.58, 38.97, 52.54, 36.13)
    ),
    "fcn": Published(
        918.07, 41.70, (905.05, 913.34, 898.76, 945.33, 927.88), (26.06, 39.95, 46.90, 63.80, 31.80)
    ),
}

# Table 2 (b), method -> structural similarity.
SSIM: Mapping[str, Published] = {
    "forest": Published(
        0.830, 0.039, (0.814, 0.822, 0.832, 0.850, 0.830), (0.044, 0.038, 0.040, 0.032, 0.041)
    ),
    "propagation": Published(
        0.718, 0.045, (0.727, 0.718, 0.713, 0.708, 0.723), (0.044, 0.045, 0.047, 0.049, 0.039)
    ),
    "mlp": Published(
        0.780, 0.046, (0.770, 0.773, 0.790, 0.786, 0.781), (0.052, 0.045, 0.044, 0.044, 0.047)
    ),
    "unet": Published(
        0.854, 0.033, (0.847, 0.856, 0.854, 0.853, 0.861), (0.038, 0.025, 0.036, 0.031, 0.034)
    ),
    "fcn": Published(
        0.860, 0.031, (0.868, 0.854, 0.880, 0.846, 0.850), (0.036, 0.028, 0.031, 0.035, 0.027)
    ),
}

# Table 3, method or the true FLAIR -> lesion contrast with the normal-appearing white matter.
RATIO1: Mapping[str, Published] = {
    "forest": Published(1.33, 0.07),
    "propagation": Published(1.31, 0.06),
    "mlp": Published(1.39, 0.11),
    "unet": Published(1.34, 0.09),
    "fcn": Published(1.47, 0.13),
    "truth": Published(1.66, 0.12),
}

# Table 3, the same with the white matter around the lesions.
RATIO2: Mapping[str, Published] = {
    "forest": Published(1.15, 0.04),
    "propagation": Published(1.13, 0.04),
    "mlp": Published(1.20, 0.05),
    "unet": Published(1.17, 0.04),
    "fcn": Published(1.22, 0.07),
    "truth": Published(1.33, 0.09),
}

# Metric, named as in a score row -> method -> result.
SCORES: Mapping[str, Mapping[str, Published]] = {
    "mse": MSE,
    "ssim": SSIM,
    "ratio1": RATIO1,
    "ratio2": RATIO2,
}

# Table 4 (a), sequence removed from the FCN's five -> mean squared error.
WITHOUT: Mapping[str, Published] = {
    "T1": Published(
        975.16,
        76.62,
        (959.75, 987.13, 942.76, 999.64, 986.55),
        (60.58, 91.47, 59.22, 100.57, 71.25),
    ),
    "T1SE": Published(
        936.67, 72.00, (926.89, 940.00, 938.98, 940.56, 936.89), (73.25, 86.34, 64.27, 72.98, 63.23)
    ),
    "T2": Published(
        961.90, 75.54, (981.15, 994.47, 940.92, 939.60, 953.35), (83.45, 78.47, 69.44, 76.22, 70.12)
    ),
    "PD": Published(
        931.01, 64.63, (945.79, 919.09, 924.59, 932.46, 933.12), (67.23, 69.82, 61.39, 59.49, 65.23)
    ),
    "DIR": Published(
        1096.14,
        101.11,
        (1097.99, 1097.00, 1065.08, 1151.93, 1068.72),
        (93.27, 98.57, 101.95, 113.21, 98.56),
    ),
}

# Table 4 (b), method -> mean squared error without DIR. Modality propagation is not in it.
WITHOUT_DIR: Mapping[str, Published] = {
    "forest": Published(
        1156.21,
        114.54,
        (1035.17, 1167.52, 1170.36, 1218.38, 1189.64),
        (102.37, 127.67, 105.37, 129.01, 108.28),
    ),
    "mlp": Published(
        1410.86,
        126.79,
        (1589.62, 1375.28, 1316.53, 1235.26, 1537.61),
        (131.32, 121.12, 128.46, 117.26, 135.78),
    ),
    "unet": Published(
        1076.34,
        107.55,
        (1068.59, 998.66, 1135.24, 1175.68, 1003.54),
        (100.28, 106.79, 128.15, 107.33, 95.18),
    ),
    "fcn": Published(
        1096.14,
        101.11,
        (1097.99, 1097.00, 1065.08, 1151.93, 1068.72),
        (93.27, 98.57, 101.95, 113.21, 98.56),
    ),
}

# Table 4 (c), the FCN's only inputs -> mean squared error.
INPUTS: Mapping[tuple[str, ...], Published] = {
    ("T1", "DIR"): Published(
        972.21, 74.60, (966.67, 953.87, 998.71, 973.24, 968.55), (70.12, 68.57, 84.90, 77.79, 71.59)
    ),
    ("T2", "DIR"): Published(
        992.19,
        95.82,
        (993.25, 974.88, 1007.69, 998.56, 986.57),
        (99.35, 86.32, 103.87, 98.23, 91.33),
    ),
    ("T1", "T2"): Published(
        1277.64,
        119.87,
        (1375.83, 1562.46, 1158.65, 1078.67, 1212.59),
        (123.68, 132.68, 112.29, 103.89, 126.79),
    ),
    ("T1", "T2", "DIR"): Published(
        944.44, 75.47, (926.88, 944.39, 961.19, 931.47, 958.28), (83.68, 79.23, 71.68, 69.31, 73.45)
    ),
    ("T1", "T2", "PD"): Published(
        1233.46,
        112.89,
        (1281.06, 1324.17, 1261.68, 1143.58, 1156.79),
        (112.57, 121.37, 128.91, 98.95, 102.67),
    ),
}

# Dice between lesion segmentations of the synthetic and of the true FLAIR.
LESION_DICE = Published(0.73, 0.12)

# On a GeForce GTX TITAN X.
TRAINING_DAYS = 1.5
