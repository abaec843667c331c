"""Figures of scans, the network, labels, predictions and learning curves; each function returns a matplotlib figure.

``organs`` are the names of the labels from 1. A ``window`` has the intensities of black and white; None takes the 0.5th
and 99.5th percentile.
"""

# ruff: noqa: F401

from swinunetr.results.plots.components import plot_components
from swinunetr.results.plots.crops import plot_augmentation, plot_views
from swinunetr.results.plots.curves import plot_curves, plot_organ_dice, plot_tasks
from swinunetr.results.plots.network import plot_features, plot_network
from swinunetr.results.plots.predictions import plot_contours, plot_segmentation, plot_side_by_side, plot_validation
from swinunetr.results.plots.scans import plot_cases, plot_scan, plot_stages
from swinunetr.results.viewer import view_scan
