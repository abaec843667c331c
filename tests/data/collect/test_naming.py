"""Organs by their names in collections: spellings of one organ meet, right and left do not."""

import json

import pytest
from conftest import PROJECT

from swinunetr.data.collect.naming import class_of, meaning_of, shares_words

BTCV = tuple(json.loads((PROJECT / "json_files/btcv_24.json").read_text())["labels"].values())
ORGANS = BTCV[1:]
# In the order of BTCV's labels; None where a collection labels no such organ.
COLLECTIONS = {
    "TotalSegmentator": "spleen kidney_right kidney_left gallbladder esophagus liver stomach aorta inferior_vena_cava "
    "portal_vein_and_splenic_vein pancreas adrenal_gland_right adrenal_gland_left",
    "AbdomenAtlas": "spleen kidney_right kidney_left gall_bladder esophagus liver stomach aorta postcava None pancreas "
    "adrenal_gland_right adrenal_gland_left",
    "AMOS22": "spleen|right kidney|left kidney|gall bladder|esophagus|liver|stomach|arota|postcava|None|pancreas|"
    "right adrenal gland|left adrenal gland",
    "MONAI": "spleen rkid lkid gall eso liver sto aorta IVC None pancreas rad lad",
    "FLARE22": "Spleen|RK|LK|Gallbladder|Oesophagus|Liver|Stomach|Aorta|IVC|None|Pancreas|RAG|LAG",
}


@pytest.mark.parametrize("collection", COLLECTIONS)
def test_names_of_public_collections_meet_those_of_btcv(collection):
    text = COLLECTIONS[collection]
    names = text.split("|" if "|" in text else " ")
    expected = [organ if name != "None" else None for organ, name in zip(ORGANS, names, strict=True)]
    assert [class_of(name, BTCV) for name in names] == expected


def test_case_marks_plurals_and_the_order_of_words_make_no_difference():
    for name in ("right kidney", "Kidney_Right", "KIDNEY-RIGHT", "RightKidney", "kidney (R)", "kidneys right"):
        assert class_of(name, BTCV) == "right kidney"
    assert class_of("right kidney", ["Kidney_Right"]) == "Kidney_Right"
    assert class_of("pancreas", ["pancrea"]) is None


def test_sides_are_never_mixed():
    assert class_of("kidney_left", ["right kidney", "kidney"]) is None
    assert (
        class_of("kidney", BTCV) is class_of("adrenal gland", BTCV) is class_of("left and right kidney", BTCV) is None
    )


def test_what_may_lie_in_a_class_is_ignored_and_other_organs_are_background():
    for name in (
        "kidney",
        "kidney_cyst_left",
        "adrenal",
        "pancreas tumour",
        "cancer",
        "Vessel",
        "portal vein",
        "ignore",
    ):
        assert meaning_of(name, BTCV) == "ignore"
    for name in ("duodenum", "urinary bladder", "superior_vena_cava", "lung_upper_lobe_left", "prostate/uterus", "BG"):
        assert meaning_of(name, BTCV) == "background"
    assert meaning_of("kidney_right", ["background", "left kidney"]) == "background"  # the other side is no part of it
    assert not shares_words("spleen", ["portal and splenic veins"])
    assert not shares_words("label 1", ["label 2"])
