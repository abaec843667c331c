"""Reader of NIfTI files whose affine is nibabel's: the sform if it is set, else the qform."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

import nibabel as nib
from monai.data import NibabelReader
from monai.utils import ensure_tuple


class NiftiReader(NibabelReader):
    """MONAI's reader without its correction of headers, which takes over a qform that is not set."""

    def read(self, data: Sequence[PathLike | str] | PathLike | str, **kwargs) -> nib.Nifti1Pair | list[nib.Nifti1Pair]:
        """Return the image of a file, or a list of those of several files; ``kwargs`` are of ``nibabel.load``."""
        self.filenames = ensure_tuple(data)
        images: list[Any] = [nib.load(file, **self.kwargs | kwargs) for file in self.filenames]
        return images if len(images) > 1 else images[0]
