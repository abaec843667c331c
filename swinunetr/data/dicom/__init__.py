"""DICOM series: those that a folder holds, their geometry, and their voxels.

`reading` opens the files, and `headers` makes an instance of what each says. `grouping` finds the instances of one
series, and `geometry` whether their slices are a volume. `series` joins these four. `decoding` has the voxels of one
file, and `voxels` those of a series. `sources` has the headers to which a segmentation of a series refers, and
`segments` reads segmentation objects.
"""

from swinunetr.data.dicom.segments import Grid, Segmentation, place, read_masks, read_segmentation
from swinunetr.data.dicom.series import LeftOut, Series, find_series, fingerprint
from swinunetr.data.dicom.sources import read_sources
from swinunetr.data.dicom.voxels import write_nifti

__all__ = [
    "Grid",
    "LeftOut",
    "Segmentation",
    "Series",
    "find_series",
    "fingerprint",
    "place",
    "read_masks",
    "read_segmentation",
    "read_sources",
    "write_nifti",
]
