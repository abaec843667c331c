"""Synthetic portal-venous abdominal CT with the 13 organs of BTCV, for use without real data."""

# ruff: noqa: F401

from swinunetr.data.phantoms.acquisition import Phantom, make_phantom
from swinunetr.data.phantoms.writing import (
    FIRST_UNLABELLED,
    write_phantom,
    write_phantoms,
    write_unlabelled_phantoms,
)
