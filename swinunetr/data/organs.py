"""The colour of each organ, in figures and in the label files of viewers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from swinunetr.files import replacing

# Adjacent organs differ in lightness as well as in hue, for readers who cannot distinguish red from green.
ORGAN_COLOURS = (
    "#CC79A7",  # spleen
    "#F0E442",  # right kidney
    "#B8860B",  # left kidney
    "#009E73",  # gallbladder
    "#FF00FF",  # esophagus
    "#A6611A",  # liver
    "#56B4E9",  # stomach
    "#D7191C",  # aorta
    "#0057B7",  # inferior vena cava
    "#00E5EE",  # portal and splenic veins
    "#FDAE61",  # pancreas
    "#7CFC00",  # right adrenal gland
    "#B266FF",  # left adrenal gland
)


def organ_colours(count: int) -> list[str]:
    """Return ``count`` colours as HTML codes; the list repeats after 13."""
    return [ORGAN_COLOURS[number % len(ORGAN_COLOURS)] for number in range(count)]


def save_label_names(folder: str | Path, classes: Sequence[str]) -> None:
    """Write the names and colours of the labels for 3D Slicer and ITK-SNAP.

    Args:
        folder: Output folder; gets ``labels.ctbl`` (3D Slicer) and ``labels_itksnap.txt``.
        classes: Names of the labels from 0, which is background.
    """
    colours = [tuple(int(code[i : i + 2], 16) for i in (1, 3, 5)) for code in organ_colours(len(classes) - 1)]
    in_words = [re.sub(r"\s+", "_", name.strip()) for name in classes]  # 3D Slicer's columns end at a space
    in_quotes = [re.sub(r"\s+", " ", name.replace('"', "'")) for name in classes]  # ITK-SNAP's end at a quote
    slicer = [f"# Color table file\n# {len(classes)} values\n0 {in_words[0]} 0 0 0 0"]
    snap = ['0 0 0 0 0 0 0 "Clear Label"']
    for label, (red, green, blue) in enumerate(colours, start=1):
        slicer.append(f"{label} {in_words[label]} {red} {green} {blue} 255")
        snap.append(f'{label} {red} {green} {blue} 1 1 1 "{in_quotes[label]}"')
    for file, lines in (("labels.ctbl", slicer), ("labels_itksnap.txt", snap)):
        with replacing(Path(folder, file)) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
