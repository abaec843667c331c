"""Trained weights on scans: NIfTI and DICOM in, segmentations, objects and bundles out."""
