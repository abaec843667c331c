"""Smooth shapes: fields between nodes, curves through knots, and distances from surfaces."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import make_interp_spline


def smooth_field(nodes: np.ndarray, axes, lows, highs) -> np.ndarray:
    """Interpolate (C, I, J, K) values at regular nodes on a grid; return float32 (C, X, Y, Z).

    Each voxel gets the mean of the nodes, weighted with a Gaussian of 0.6 node distances, one axis after the other.

    Args:
        nodes: (C, I, J, K) values.
        axes: Coordinates of the voxels along x, y and z.
        lows: Coordinate of the first node per axis, in the unit of ``axes``.
        highs: Coordinate of the last node per axis.
    """
    field = nodes.astype(np.float32)
    for axis, low, high, count in zip(axes, lows, highs, nodes.shape[1:], strict=True):
        nodes_at, step = np.linspace(low, high, count, retstep=True)
        weights = np.exp(-0.5 * ((axis[:, None] - nodes_at) / (0.6 * step)) ** 2)
        weights /= weights.sum(axis=1, keepdims=True)
        field = np.tensordot(field, weights.astype(np.float32), axes=(1, 1))  # the next axis becomes axis 1
    return field


def smooth_curve(knots: np.ndarray) -> np.ndarray:
    """Return (M, 4) points on a smooth curve through (N, 4) knots, about one mean radius apart."""
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(knots[:, :3], axis=0), axis=1))])  # mm
    count = 1 + int(np.ceil(along[-1] / knots[:, 3].mean()))
    return make_interp_spline(along, knots, k=min(3, len(knots) - 1))(np.linspace(0, along[-1], count))


def capsule(x, y, z, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the distance in mm to a tapered capsule between two (x, y, z, radius); negative inside."""
    (x0, y0, z0, radius), (dx, dy, dz, widening) = start.tolist(), (end - start).tolist()
    x, y, z = x - x0, y - y0, z - z0
    part = ((x * dx + y * dy + z * dz) / (dx * dx + dy * dy + dz * dz)).clip(0, 1)
    return np.sqrt((x - part * dx) ** 2 + (y - part * dy) ** 2 + (z - part * dz) ** 2) - (radius + part * widening)


def ellipsoid(x, y, z, centre, radii) -> np.ndarray:
    """Return 1 on the surface of an ellipsoid, less than 1 inside, more than 1 outside."""
    (a, b, c), (rx, ry, rz) = np.asarray(centre).tolist(), np.asarray(radii).tolist()
    return np.sqrt(((x - a) / rx) ** 2 + ((y - b) / ry) ** 2 + ((z - c) / rz) ** 2)


def smooth_max(a, b, blend_mm: float = 10.0) -> np.ndarray:
    """Return the maximum of two distances, with a rounded edge where they are equal."""
    return np.maximum(a, b) + (blend_mm - np.abs(a - b)).clip(0) ** 2 / (4 * blend_mm)
