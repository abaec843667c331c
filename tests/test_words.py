"""Values that are shown within a message are never longer than a line."""

from swinunetr.words import named, short


def test_a_list_is_cut_after_its_first_values():
    assert named([1.0, 2.5, "liver"]) == "1, 2.5, liver" and named([]) == ""
    assert named(range(4), most=4) == "0, 1, 2, 3" and named(range(5), most=4) == "0, 1, 2, 3, ..."
    assert named(range(9), most=4, counted=True) == "0, 1, 2, 3 and 5 more"


def test_a_long_value_ends_in_dots():
    assert short("liver") == "'liver'"
    assert short("a" * 58, most=60) == repr("a" * 58)
    assert short("a" * 59, most=60) == "'" + "a" * 56 + "..." and len(short("a" * 300)) == 200
