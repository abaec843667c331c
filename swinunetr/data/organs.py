"""What is known of each organ: its colour in figures and viewers, and its code in DICOM segmentation objects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from swinunetr.files import replacing


class Concept(NamedTuple):
    """A concept of SNOMED CT, or of another scheme of codes."""

    value: str
    meaning: str
    scheme: str = "SCT"


class Organ(NamedTuple):
    """Colour and code of an organ."""

    colour: str  # as an HTML code
    code: Concept  # property type, from context group 7151 of DICOM
    side: Concept | None = None  # laterality, from 244
    regions: tuple[Concept, ...] = ()  # anatomic regions, from 4, of what has no code of its own


RIGHT, LEFT = Concept("24028007", "Right"), Concept("7771000", "Left")
KIDNEY, ADRENAL_GLAND = Concept("64033007", "Kidney"), Concept("23451007", "Adrenal gland")
PORTAL_VEIN, SPLENIC_VEIN = Concept("32764006", "Portal vein"), Concept("35819009", "Splenic vein")

# In the order of BTCV's labels. Organs that touch have colours that differ for all readers, also for those who cannot
# distinguish red from green; tests/data/test_organs.py measures by how much. There is no code for one kidney or one
# adrenal gland, so the side is a modifier, as PS3.3, C.8.20.4.1 provides. Nor is there one for the two veins together,
# and that of either vein would be wrong for the voxels of the other: the type is Vein, and both are anatomic regions,
# as the same section provides.
ORGANS = {
    "spleen": Organ("#F6AA96", Concept("78961009", "Spleen")),
    "right kidney": Organ("#7CBFFF", KIDNEY, RIGHT),
    "left kidney": Organ("#75810E", KIDNEY, LEFT),
    "gallbladder": Organ("#87B075", Concept("28231008", "Gallbladder")),
    "esophagus": Organ("#41FFBF", Concept("32849002", "Esophagus")),
    "liver": Organ("#825B01", Concept("10200004", "Liver")),
    "stomach": Organ("#A97CF6", Concept("69695003", "Stomach")),
    "aorta": Organ("#FF3D38", Concept("15825003", "Aorta")),
    "inferior vena cava": Organ("#0D6EB6", Concept("64131007", "Inferior vena cava")),
    "portal and splenic veins": Organ("#03ECFF", Concept("29092000", "Vein"), regions=(PORTAL_VEIN, SPLENIC_VEIN)),
    "pancreas": Organ("#FFFF00", Concept("15776009", "Pancreas")),
    "right adrenal gland": Organ("#6DE709", ADRENAL_GLAND, RIGHT),
    "left adrenal gland": Organ("#A400F7", ADRENAL_GLAND, LEFT),
}
ORGAN_COLOURS = tuple(organ.colour for organ in ORGANS.values())


def organ_colours(count: int) -> list[str]:
    """Return the colours of ``count`` labels as HTML codes, by their order whatever their names; they repeat."""
    return [ORGAN_COLOURS[number % len(ORGAN_COLOURS)] for number in range(count)]


def save_label_names(folder: str | Path, classes: Sequence[str]) -> None:
    """Write ``labels.ctbl`` for 3D Slicer and ``labels_itksnap.txt``: names of the labels from 0, and colours."""
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
