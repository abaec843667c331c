"""Layouts that a dataset.json describes: raw data of both versions of nnU-Net, and the Decathlon's."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from swinunetr.data.collect.cases import PARTS
from swinunetr.data.collect.layouts.contents import Contents, Entry, Match, without_ending
from swinunetr.data.collect.layouts.known import known_by
from swinunetr.data.collect.layouts.scan_names import CHANNEL
from swinunetr.data.collect.naming import class_of
from swinunetr.data.collect.structures import MADE_BY
from swinunetr.data.folders import is_nifti
from swinunetr.data.lists import read_json
from swinunetr.data.modality import OTHERS, dicom_modality, is_ct
from swinunetr.errors import InputError
from swinunetr.files import folded
from swinunetr.words import named, short

NAME = "dataset.json"
BACKGROUND = "background"
IGNORE = "ignore"
MR_CHANNELS = {"t1", "t1w", "t1gd", "t1c", "t2", "t2w", "flair", "adc", "dwi"}


class Description(NamedTuple):
    """A dataset.json."""

    base: str  # its folder, relative and with "/" at the end; empty: the root
    file: str
    content: dict[str, Any]

    @property
    def of_nnunet_2(self) -> bool:
        """Whether it is of nnU-Net 2, which gives an ending of the files in place of their names."""
        return "file_ending" in self.content or "channel_names" in self.content

    def of_nnunet_1(self, entries: list[Entry]) -> bool:
        """Whether the files of its cases have ``_0000`` in their names, which it leaves out."""
        listed = str(self.content["training"])
        return any(
            CHANNEL.search(name := without_ending(posixpath.basename(entry.image))) and name not in listed
            for entry in entries
        )

    @property
    def names(self) -> tuple[dict[int, str], int | None]:
        """Names of the ids, and the id of voxels that count in no loss.

        Raises:
            InputError: An id is no whole number, or a class has several, as regions of nnU-Net have.
        """
        by_id: dict[int, str] = {}
        for key, value in self.content["labels"].items():
            name, i = (value, key) if isinstance(value, str) and str(key).isdecimal() else (key, value)
            i = i[0] if isinstance(i, list) and len(i) == 1 else i
            if isinstance(i, list):
                raise InputError(
                    f"'{self.file}': expected one id per class, found the region '{name}' with the ids {named(i)}. "
                    'Write "labels" that name each id of the label files once, as {"background": 0, "kidney": 1, '
                    '"tumour": 2}; classes can be joined later with label_maps.'
                )
            if not str(i).isdecimal() or int(i) in by_id:
                what = "expected a whole number of its own as id of each class"
                raise InputError(f"'{self.file}': {what}, found {short(i)} for '{name}'. Correct \"labels\" there.")
            if folded(name) in map(folded, by_id.values()):
                what = f"expected a different name for each id, found '{name}' twice"
                raise InputError(f"'{self.file}': {what}. Rename one of them in \"labels\" there.")
            by_id[int(i)] = name
        ignored = [i for i, name in by_id.items() if name.strip().lower() == IGNORE]
        classes = {0: BACKGROUND} | {i: name for i, name in sorted(by_id.items()) if i not in ignored}
        if not any(class_of(name, (BACKGROUND,)) for name in classes.values()):
            classes[0] = BACKGROUND  # else a model would learn all that is no organ as one
        return classes, ignored[0] if ignored else None

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentence on the id 0 if its name is none of a background."""
        labels = self.content["labels"]
        given = labels.get("0") or next((name for name, i in labels.items() if i in (0, "0")), BACKGROUND)
        if self.names[0][0] == given:
            return ()
        return (f"'{self.file}': the id 0, '{given}', is taken for the background.",)

    @property
    def modality(self) -> str:
        """Name of the modality; empty if the name of the channel is none.

        Raises:
            InputError: The images have several channels.
        """
        channels = self.content.get("channel_names") or self.content.get("modality") or ""
        names = list(channels.values()) if isinstance(channels, dict) else [channels]
        if len(names) > 1:
            raise InputError(
                f"'{self.file}': expected images of one channel, found {len(names)}: {named(names)}. Images of several "
                "channels cannot be used; make a data set with one of them."
            )
        name = str(names[0]).strip()
        if name.lower() in MR_CHANNELS:
            return "MR"
        return dicom_modality(name) if is_ct(name) or dicom_modality(name) in OTHERS else ""


def descriptions(contents: Contents) -> list[Description]:
    """Return every dataset.json with names of labels.

    Raises:
        InputError: A file of this name cannot be read, or is a list of this project.
    """
    found = []
    for file in contents.others:
        folder, _, name = file.rpartition("/")
        if name.lower() == NAME:
            try:
                content = read_json(contents.root / file)
            except InputError as error:
                raise InputError(str(error).removeprefix("json_path: ")) from None
            if "label_maps" in content and content.get("made_by") != MADE_BY:
                raise InputError(
                    f"'{file}' has label_maps: it is a list for training, not that of a collection. Train with it, or "
                    "move it out of the folder."
                )
            own = content.get("made_by") == MADE_BY  # a list for training that was put in the folder
            if not own and isinstance(content.get("labels"), dict) and content["labels"]:
                found.append(Description(f"{folder}/" if folder else "", file, content))
    return found


def names_beside(contents: Contents, base: str) -> tuple[Mapping[int, str], int | None, str] | None:
    """Return names, the id to ignore and the source, if a folder has a dataset.json; otherwise None."""
    for description in descriptions(contents):
        if description.base == (f"{base}/" if base else ""):
            return *description.names, f"the ids are those of '{description.file}'"
    return None


def nnunet_2(contents: Contents) -> Iterator[Match]:
    """Find raw data of nnU-Net 2: a dataset.json with channel_names beside imagesTr and labelsTr."""
    for description in descriptions(contents):
        base, content = description.base, description.content
        files = [file for file in (*contents.scans, *contents.others) if file.startswith(f"{base}imagesTr/")]
        if not description.of_nnunet_2 or not (files or content.get("dataset")):
            continue  # a Decathlon's, or that of a trained network
        ending = str(content.get("file_ending", ".nii.gz"))
        if not is_nifti(f"x{ending}"):
            raise InputError(
                f"'{description.file}': expected files that end in .nii.gz or .nii, found \"file_ending\": "
                f"{short(ending)}. Convert the images and labels, and write the new ending there."
            )
        modality, (names, ignore) = description.modality, description.names
        listed = content.get("dataset")
        entries, unused = _explicit(contents, description) if listed else (_by_folders(contents, base), {})
        labelled = [entry for entry in entries if entry.label]
        given = content.get("numTraining")
        number = sum(entry.part == "training" for entry in labelled)
        differs = isinstance(given, int) and given != number
        note = f"'{description.file}' gives numTraining as {given}; {number} cases with a label are there."
        if labelled:
            ground = f"'{description.file}' with channel_names or file_ending"
            notes = (*description.notes, *(note,) * differs)
            source = description.file if listed else ""
            yield Match("nnU-Net 2 raw", ground, entries, names, ignore, modality, source, unused, notes=notes)


def _by_folders(contents: Contents, base: str) -> list[Entry]:
    """Return the cases of imagesTr and, without labels as a rule, of imagesTs."""
    entries = []
    for suffix, part in (("Tr", "training"), ("Ts", "test")):
        for file in contents.scans:
            folder, _, name = file.rpartition("/")
            if folder != f"{base}images{suffix}":
                continue
            case = CHANNEL.sub("", without_ending(name))
            label = contents.find(f"{base}labels{suffix}/{case}.nii.gz")
            if label or part == "test":
                entries.append(Entry(case, file, label, {}, part))
    return entries


def _explicit(contents: Contents, description: Description) -> tuple[list[Entry], dict[str, str]]:
    """Return the cases that nnU-Net 2's "dataset" lists, and what cannot be used."""
    listed = description.content["dataset"]
    well = isinstance(listed, dict) and all(
        isinstance(case, dict) and isinstance(case.get("images"), list) and case["images"] for case in listed.values()
    )
    if not well:
        what = 'expected "dataset" as {"case": {"images": ["a.nii.gz"], "label": "b.nii.gz"}}'
        raise InputError(f"'{description.file}': {what}, found {short(listed)}. Correct it there.")
    cases = [{"image": case["images"][0], "label": case.get("label")} for case in listed.values()]
    return _listed(contents, description, {"training": cases})


def decathlon(contents: Contents) -> Iterator[Match]:
    """Find data whose dataset.json lists the files: the Decathlon's, and nnU-Net 1's, whose names lack ``_0000``."""
    for description in descriptions(contents):
        if description.of_nnunet_2 or not isinstance(description.content.get("training"), list):
            continue
        modality, (names, ignore) = description.modality, description.names
        sections = {part: description.content.get(part) or [] for part in PARTS}
        entries, unused = _listed(contents, description, sections)
        if not any(entry.label for entry in entries):
            continue
        layout, ground = "Decathlon", f"'{description.file}', which lists the images"
        if description.of_nnunet_1(entries):
            layout, ground = "nnU-Net 1 raw", f"{ground} without the _0000 of their files"
        stems = [without_ending(posixpath.basename(entry.image)) for entry in entries]
        if known := known_by(stems):  # such as AMOS22, whose JSON says CT of its MR too
            layout, ground = known.layout, f"{ground}, and names such as '{stems[0]}'"
            entries = [
                entry._replace(modality=known.modality(stem)) for entry, stem in zip(entries, stems, strict=True)
            ]
        yield Match(layout, ground, entries, names, ignore, modality, description.file, unused, notes=description.notes)


def _listed(
    contents: Contents, description: Description, sections: Mapping[str, list]
) -> tuple[list[Entry], dict[str, str]]:
    """Return the cases that the lists of a JSON name, and a reason for each listed file that cannot be used.

    Raises:
        InputError: A list is malformed, or lists an image twice.
    """
    entries: dict[str, Entry] = {}
    unused: dict[str, str] = {}
    where = f"'{description.file}'"
    for part, cases in sections.items():
        for case in cases if isinstance(cases, list) else [cases]:
            image, label = _paths(contents, description, case, part)
            image_file = _file(contents, image)
            label_file = _file(contents, label) if label else _unlisted_label(contents, image)
            for path, file in ((image, image_file), (label, label_file)):
                if path and not file:
                    unused[path] = f"listed in {where}, but not there"
            if not image_file:
                continue
            if image_file in entries:
                what = f"expected each image once, found '{image_file}' twice"
                raise InputError(f"{where}: {what}. Remove one of the two cases there.")
            if label_file or (part == "test" and not label):
                name = CHANNEL.sub("", without_ending(posixpath.basename(image_file)))
                entries[image_file] = Entry(name, image_file, label_file, {}, part)
            elif not label:
                unused[image_file] = f"listed in {where} without a label"
    return list(entries.values()), unused


def _paths(contents: Contents, description: Description, case: object, part: str) -> tuple[str, str | None]:
    """Return the paths of image and label of a listed case, relative to the root.

    Raises:
        InputError: The case is malformed.
    """
    files = {"image": case} if isinstance(case, str) else case
    image, label = (files.get("image"), files.get("label")) if isinstance(files, dict) else (None, None)
    if not isinstance(image, str) or not isinstance(label, str | None) or image == label:
        what = f'expected an "image" and a "label" of its own in each case of "{part}"'
        raise InputError(f"'{description.file}': {what}, found {short(case)}. Correct it there.")

    def relative(path: str) -> str:
        return posixpath.normpath(posixpath.join(description.base, path)).removeprefix(f"{contents.root}/")

    return relative(image), relative(label) if label else None


def _file(contents: Contents, path: str) -> str | None:
    """Return the file of a listed name, to which nnU-Net adds ``_0000`` for an image."""
    return contents.find(path) or contents.find(f"{without_ending(path)}_0000.nii.gz")


def _unlisted_label(contents: Contents, image: str) -> str | None:
    """Return the label of an image that is listed without one, as those of AMOS22's validation cases are."""
    label = re.sub(r"images(?=\w*/[^/]+$)", "labels", image)
    return _file(contents, label) if label != image else None
