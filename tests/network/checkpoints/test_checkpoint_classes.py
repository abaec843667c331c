"""Each class keeps its row of the head, whatever the order of the classes is."""

import re

import pytest
import torch
from checkpoint_files import LAYOUTS, written

from swinunetr.errors import CheckpointError
from swinunetr.network.checkpoints import (
    build_swinunetr,
    load_pretrained,
    match_classes,
    require_classes,
    save_weights,
)

CLASSES = ("background", "spleen", "left kidney", "liver", "aorta")
HEAD = ("out.conv.conv.weight", "out.conv.conv.bias")


@pytest.fixture(scope="module")
def own_file(tmp_path_factory):
    """Return the file of an own fine-tuning with five classes."""
    torch.manual_seed(1)
    file = tmp_path_factory.mktemp("own") / "best_model.pth"
    save_weights(build_swinunetr(5, feature_size=12, window_size=4), file, note={"classes": CLASSES})
    return file


def check_rows(file, classes, rows):
    """Load a file for these classes, and check where each row of the head is from: the file, or None for random."""
    theirs = torch.load(file, weights_only=True)
    model = build_swinunetr(len(classes), file)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = load_pretrained(model, file, classes=classes)
    own = model.state_dict()
    for name in HEAD:
        expected = [before[name][i] if row is None else theirs[name][row] for i, row in enumerate(rows)]
        assert torch.equal(own[name], torch.stack(expected))
    assert all(torch.equal(own[name], theirs[name]) for name in own if name not in HEAD)
    assert sorted([*report.loaded, *report.dropped]) == sorted(theirs)
    assert sorted([*report.loaded.values(), *report.left_random]) == sorted(own)
    return report


NEW_CLASSES = {  # classes of the data, and the row of CLASSES that each gets
    "the same": (CLASSES, [0, 1, 2, 3, 4]),
    "another order": (("background", "aorta", "liver", "spleen", "left kidney"), [0, 4, 3, 1, 2]),
    "fewer": (("background", "liver"), [0, 3]),
    "more": (("background", "tumour", *CLASSES[1:], "vein"), [0, None, 1, 2, 3, 4, None]),
    "as many with other names": (("background", "spleen", "tumour", "liver", "vein"), [0, 1, None, 3, None]),
    "other spelling": (("Background", "Aorta ", "LEFT_KIDNEY", "liver-", "sp leen"), [0, 4, 2, 3, None]),
    "spelling twice": (("background", "left-kidney", "left_kidney", "liver"), [0, None, None, 3]),
    "exact name of two": (("background", "left kidney", "left_kidney", "liver"), [0, 2, None, 3]),
    "name twice": (("background", "liver", "liver", "aorta"), [0, None, None, 4]),
    "without the background": (("air", "liver", "spleen"), [None, 3, 1]),
}


@pytest.mark.parametrize("classes, rows", NEW_CLASSES.values(), ids=NEW_CLASSES)
def test_each_class_keeps_its_row_of_the_head_and_a_new_one_stays_random(classes, rows, own_file):
    report = check_rows(own_file, classes, rows)
    assert report.head.rows == {i: row for i, row in enumerate(rows) if row is not None}
    assert report.head.kept == tuple(classes[i] for i, row in enumerate(rows) if row is not None)
    assert report.head.left_random == tuple(classes[i] for i, row in enumerate(rows) if row is None)
    assert report.head.dropped == tuple(name for row, name in enumerate(CLASSES) if row not in rows)


def test_the_report_names_the_classes_that_were_kept_dropped_and_left_random(own_file):
    report = check_rows(own_file, ("background", "liver", "tumour"), [0, 3, None])
    text = str(report)
    assert re.search("head, 2 of 3 classes +2 of 2\n", text)
    assert "rows of the head, kept: background, liver\n" in text
    assert "rows of the head, dropped: spleen, left kidney, aorta\n" in text
    assert text.endswith("rows of the head, stay random: tumour")
    whole = str(check_rows(own_file, CLASSES, range(5)))
    assert "kept: background, spleen" in whole and "dropped" not in whole and "random" not in whole


def test_a_head_without_a_common_class_is_dropped(own_file):
    classes = ("air", "bone", "muscle", "fat", "skin")  # as many as in the file
    report = check_rows(own_file, classes, [None] * 5)
    assert report.dropped.keys() == report.left_random.keys() == set(HEAD) and report.head is None
    assert "made for other classes: background, spleen" in str(report)


def test_a_name_that_is_twice_in_the_file_is_unknown():
    assert match_classes(("background", "Vein", "vein_", "vein_"), ("background", "VEIN")).rows == {0: 0}
    assert match_classes(("background", "Vein", "vein_", "vein_"), ("background", "Vein")).rows == {0: 0, 1: 1}


def test_without_names_the_number_of_classes_decides(own_file, originals, tmp_path):
    public = written(tmp_path, LAYOUTS["bare state dict"], originals["v1"].state_dict())
    report = check_rows(public, [f"organ {i}" for i in range(14)], range(14))
    assert report.head is None and len(report.loaded) == 159
    assert "made for 14 classes; the network has 3" in str(check_rows(public, CLASSES[:3], [None] * 3))

    model = build_swinunetr(5, own_file)
    assert load_pretrained(model, own_file).head is None  # names in the file only
    assert torch.equal(model.out.conv.conv.bias, torch.load(own_file, weights_only=True)[HEAD[1]])


def test_the_head_of_pretraining_is_not_that_of_the_background(tmp_path):
    file = tmp_path / "ssl_pretrained_weights.pth"
    save_weights(build_swinunetr(1, feature_size=12, window_size=4), file, note={"classes": ("background",)})
    report = check_rows(file, ("background", "liver"), [None, None])
    assert report.dropped.keys() == set(HEAD)


def test_a_head_that_contradicts_the_names_in_its_file_is_dropped(tmp_path):
    file = tmp_path / "changed.pth"
    save_weights(build_swinunetr(3, feature_size=12, window_size=4), file, note={"classes": CLASSES})
    report = check_rows(file, CLASSES[:3], [None] * 3)
    assert set(report.dropped.values()) == {"made for 3 classes, but the file names 5"}
    with pytest.raises(CheckpointError, match="a head for 3 classes, but with names for 5"):
        require_classes(file, CLASSES[:3])


def test_without_decoder_no_row_of_the_head_is_loaded(own_file):
    model = build_swinunetr(5, own_file)
    report = load_pretrained(model, own_file, decoder=False, classes=CLASSES)
    assert report.head is None and set(HEAD) <= report.left_random.keys()


def test_rows_are_converted_to_the_dtype_of_the_network(own_file):
    model = build_swinunetr(2, own_file).double()
    load_pretrained(model, own_file, classes=("liver", "background"))
    theirs = torch.load(own_file, weights_only=True)
    assert torch.equal(model.out.conv.conv.weight, theirs[HEAD[0]][[3, 0]].double())


def test_classes_that_are_not_those_of_the_network_are_an_error(own_file):
    with pytest.raises(ValueError, match="a name for each of 5 classes, found 2"):
        load_pretrained(build_swinunetr(5, own_file), own_file, classes=CLASSES[:2])


def test_evaluation_needs_all_classes_of_the_weights_and_no_others(own_file, originals, tmp_path):
    require_classes(own_file, CLASSES)
    require_classes(own_file, ("Background", "aorta", "liver", "left_kidney", "spleen"))
    for classes, match in (
        ((*CLASSES, "tumour"), "weights that were not trained for tumour. Expected weights for the 6 classes"),
        ((*CLASSES[:4], "tumour"), r"not trained for tumour, but for aorta\..* train without evaluate_only"),
        (CLASSES[:3], "were also trained for liver, aorta"),
    ):
        with pytest.raises(CheckpointError, match=match):
            require_classes(own_file, classes)
    public = written(tmp_path, LAYOUTS["btcv"], originals["v1"].state_dict())
    require_classes(public, [f"organ {i}" for i in range(14)])
    with pytest.raises(CheckpointError, match="a head for 14 classes. Expected weights for the 5 classes"):
        require_classes(public, CLASSES)
    encoder = written(tmp_path, LAYOUTS["ssl_50k"], originals["v1"].state_dict())
    with pytest.raises(CheckpointError, match="without a segmentation head"):
        require_classes(encoder, CLASSES)
