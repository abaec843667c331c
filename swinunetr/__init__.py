"""Modules that the notebooks use, one task each; `ssl_helpers.py` says where to find what.

Imports run one way, from the notebooks down to `errors`: `tests/test_imports.py` checks it.
"""

import logging

# BTCV's headers carry pixdim[0] = 0, which nibabel reports for every file; the value has no bearing on the geometry.
logging.getLogger("nibabel.global").setLevel(logging.ERROR)
