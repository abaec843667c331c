"""Layouts of image and label files that belong together by name: collections that are known by it, and any others."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from swinunetr.data.collect.layouts.contents import Contents, Entry, Match
from swinunetr.data.collect.layouts.dataset_json import names_beside
from swinunetr.data.collect.layouts.known import KNOWN, Known
from swinunetr.data.collect.layouts.scan_names import CHANNEL, ScanName, read_name
from swinunetr.errors import InputError

LEVELS = 4  # of likeness, see ScanName.keys


class Pairing(NamedTuple):
    """Images with their labels, and what is left."""

    pairs: list[tuple[ScanName, ScanName]]
    images: list[ScanName]
    reasons: dict[str, str]  # of scans that could have several partners, by path


def pair(scans: Sequence[str]) -> Pairing:
    """Pair images with labels by what their paths have in common; the strictest likeness counts first.

    At last, an image and a label are a pair that are alone in a folder below the root.

    Raises:
        InputError: A label has an image of several channels.
    """
    names = [read_name(file) for file in scans]
    in_folder = Counter(os.path.dirname(name.file) for name in names)
    pairs: list[tuple[ScanName, ScanName]] = []
    reasons: dict[str, str] = {}
    for level in range(LEVELS + 1):
        groups: dict[tuple, tuple[list[ScanName], list[ScanName]]] = defaultdict(lambda: ([], []))
        for name in names:
            folder = os.path.dirname(name.file)
            if level < LEVELS:
                groups[name.folders, name.keys[level]][name.is_label].append(name)
            elif folder and in_folder[folder] == 2:
                groups[folder,][name.is_label].append(name)
        paired = set()
        for images, labels in groups.values():
            if len(images) == len(labels) == 1:
                pairs.append((images[0], labels[0]))
                paired |= {images[0].file, labels[0].file}
            elif images and labels:
                what = f"expected one image and one label of this name, found {len(images)} and {len(labels)}"
                reasons |= {name.file: what for name in (*images, *labels)}
        names = [name for name in names if name.file not in paired]
    images = [name for name in names if not name.is_label]
    _check_channels(pairs, images)
    return Pairing(sorted(pairs), images, reasons)


def _check_channels(pairs: list[tuple[ScanName, ScanName]], images: list[ScanName]) -> None:
    """Check that no image beside a pair is another channel of its image."""
    firsts = {CHANNEL.sub("", image.file_stem): image.file for image, _ in pairs if CHANNEL.search(image.stem)}
    for image in images:
        if (first := firsts.get(re.sub(r"_000[1-9]$", "", image.file_stem))) is not None:
            raise InputError(
                f"Expected one image per label, found '{first}' and '{image.file}', channels of one case as nnU-Net "
                "names them. Images of several channels cannot be used: move the files of all other channels away."
            )


def known_pairs(contents: Contents) -> Iterator[Match]:
    """Find BTCV, AMOS22, FLARE22, WORD and KiTS23, each below one folder."""
    pairing = pair(contents.scans)
    by_base: dict[str, list[tuple[ScanName, ScanName]]] = defaultdict(list)
    for image, label in pairing.pairs:
        by_base[image.base].append((image, label))
    for base, all_pairs in by_base.items():
        for known in KNOWN:
            pairs = [(image, label) for image, label in all_pairs if known.names_pair(image, label)]
            if not pairs or (known.alone and len(pairs) < len(all_pairs)):
                continue
            tests = [image for image in pairing.images if image.base == base and known.image.fullmatch(image.stem)]
            entries = [_entry(*found, known=known) for found in pairs]
            entries += [_entry(image, None, known) for image in tests if image.part == "test"]
            own = (known.names, None, f"the ids are those of {known.layout}")
            names, ignore, source = names_beside(contents, base) or own
            match = Match(known.layout, f"{_example(pairs)}; {source}", entries, names, ignore)
            yield replace(match, unpaired=pairing.reasons, folder_per_case=known.folder is not None)


def plain_pairs(contents: Contents) -> Iterator[Match]:
    """Find images and labels of any names that belong together; what the ids mean is not known."""
    pairing = pair(contents.scans)
    if pairing.pairs:
        entries = [_entry(image, label) for image, label in pairing.pairs]
        entries += [_entry(image, None) for image in pairing.images if image.part == "test"]
        yield Match("pairs of image and label", _example(pairing.pairs), entries, unpaired=pairing.reasons)


def _entry(image: ScanName, label: ScanName | None, known: Known | None = None) -> Entry:
    modality, part = (known.modality(image.stem), known.part(image)) if known else ("", image.part)
    return Entry(image.case, image.file, label and label.file, {}, part, modality, image.path)


def _example(pairs: list[tuple[ScanName, ScanName]]) -> str:
    image, label = pairs[0]
    return f"'{image.file}' with '{label.file}'"
