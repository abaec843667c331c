"""Organs by their names in collections: which class of a list a name means."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from swinunetr.data.label_maps import IGNORE
from swinunetr.files import folded

BACKGROUND = "background"
# Other spellings in public collections. Case, underscores, hyphens, plurals and the order of words need none.
SYNONYMS = {
    BACKGROUND: ("bg", "clear label"),
    "adrenal gland": ("adrenal", "suprarenal gland"),
    "right adrenal gland": ("rad", "rag"),  # rad, rkid, eso, ...: MONAI's JSON of BTCV; RAG, RK, ...: FLARE's tables
    "left adrenal gland": ("lad", "lag"),
    "right kidney": ("rkid", "rk"),
    "left kidney": ("lkid", "lk"),
    "gallbladder": ("gall bladder", "gall"),
    "esophagus": ("oesophagus", "eso"),
    "stomach": ("sto",),
    "aorta": ("arota",),  # in the JSON of AMOS22
    "inferior vena cava": ("postcava", "post cava", "ivc"),
    "urinary bladder": ("bladder",),
    "small bowel": ("small intestine",),
}
SIDES = {"r": "right", "rt": "right", "l": "left", "lt": "left"}
BOTH_SIDES = frozenset({"right", "left"})
FILLERS = {"and", "or", "of", "the"}
# What lies in an organ: some collections count it as the organ, others do not.
FINDINGS = {"cancer", "carcinoma", "cyst", "lesion", "mass", "metastases", "metastasis", "nodule", "tumor", "tumour"}
FINDINGS |= {"vessel"}
ADJECTIVES = {
    "hepatic": "liver",
    "renal": "kidney",
    "splenic": "spleen",
    "pancreatic": "pancreas",
    "gastric": "stomach",
}
# Words that organs which have nothing else in common share.
COMMON = {"artery", "body", "bone", "common", "gland", "head", "label", "large", "lobe", "muscle", "organ", "small"}
COMMON |= {"inferior", "lower", "superior", "upper", "vein", "vena", "cava", "urinary", *BOTH_SIDES}


def class_of(name: str, classes: Sequence[str]) -> str | None:
    """Return the one of ``classes`` that an organ's name in a collection means; None if there is none.

    Case, ``_``, ``-``, plurals and the order of words make no difference: ``kidney_right`` is ``Right Kidney``. Left
    and right do, and so does a name without a side: ``kidney`` is neither.
    """
    meant = _words(name)
    return next((each for each in classes if _words(each) == meant), None)


def meaning_of(name: str, classes: Sequence[str]) -> str:
    """Return the class that a name means, or what its voxels are in a list without it: ``background`` or ``ignore``.

    ``ignore`` is for what may be a part of a class, or contain one, such as ``kidney`` and ``kidney_cyst_left`` beside
    the class ``left kidney``. All other organs are background.
    """
    if _words(name) == _words(IGNORE):
        return IGNORE
    if hit := class_of(name, classes) or class_of(name, (BACKGROUND,)):
        return hit
    return IGNORE if is_finding(name) or shares_words(name, classes) else BACKGROUND


def is_finding(name: str) -> bool:
    """Return whether a name is of what may lie in any organ, such as a tumour."""
    return bool(_words(name) & FINDINGS)


def shares_words(name: str, classes: Sequence[str]) -> bool:
    """Return whether a name may stand for a part of a class, or for several of them, by the words that they share."""
    words = _words(name)
    distinctive = {ADJECTIVES.get(word, word) for word in words} | words
    return any(
        not _on_other_sides(words, other) and (distinctive & other) - COMMON - {w for w in words if w.isdecimal()}
        for other in map(_words, classes)
    )


def _on_other_sides(words: frozenset[str], others: frozenset[str]) -> bool:
    sides, other_sides = words & BOTH_SIDES, others & BOTH_SIDES
    return bool(sides and other_sides and not sides & other_sides)


@cache
def _words(name: str) -> frozenset[str]:
    """Return the words of a name in one spelling, which names of the same organ share."""
    words = _plain_words(name)
    if words in _STANDARD:
        return _STANDARD[words]
    sides = words & BOTH_SIDES
    return _STANDARD.get(words - sides, words - sides) | sides


def _plain_words(name: str) -> frozenset[str]:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)  # RightKidney
    words = (re.sub(r"(?<=[^aius])s$", "", word) for word in re.findall(r"[^\W_]+", folded(spaced)))
    return frozenset(SIDES.get(word, word) for word in words if word not in FILLERS)


_STANDARD = {_plain_words(other): _plain_words(name) for name, others in SYNONYMS.items() for other in (name, *others)}
