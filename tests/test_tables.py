"""Tables as text and as Markdown."""

from IPython.lib.pretty import pretty

from swinunetr.tables import Shown, Table

TABLE = Table(
    ("organ", "Dice", "where"), [("liver", "0.93 ± 0.01", "right"), ("a|b", "-", "left")], ["One note."], "Title"
)


def test_numbers_are_aligned_to_the_right_and_words_to_the_left():
    assert str(TABLE).splitlines() == [
        "Title",
        "organ         Dice  where",
        "liver  0.93 ± 0.01  right",
        "a|b              -  left",
        "One note.",
    ]


def test_jupyter_shows_markdown_and_a_log_shows_text():
    assert TABLE._repr_markdown_().splitlines() == [
        "Title",
        "",
        "| organ | Dice | where |",
        "| --- | --- | --- |",
        "| liver | 0.93 ± 0.01 | right |",
        "| a\\|b | - | left |",
        "",
        "- One note.",
    ]
    assert pretty(TABLE) == str(TABLE)


def test_a_table_without_rows_has_no_headings():
    assert str(Table(("a", "b"), [])) == Table(("a", "b"), [])._repr_markdown_() == ""
    assert str(Table(("a", "b"), [], ["only a note"])) == "only a note"


def test_several_tables_are_shown_in_order_without_empty_tables():
    class Report(Shown):
        def tables(self):
            return [TABLE, Table(("a",), []), Table(("b",), [("c",)])]

    assert str(Report()).splitlines()[-3:] == ["One note.", "b", "c"]
    assert Report()._repr_markdown_().endswith("- One note.\n\n| b |\n| --- |\n| c |")


def test_texts_that_begin_with_a_digit_are_words():
    assert str(Table(("data", "found"), [("cases", "6 training"), ("shape", "80..96 x 63 voxels")])).splitlines() == [
        "data   found",
        "cases  6 training",
        "shape  80..96 x 63 voxels",
    ]


def test_a_cell_of_markdown_stays_one_cell_and_no_formula():
    lines = Table(("organ",), [("a|b $x$\nc",)]).markdown().splitlines()
    assert lines[2] == r"| a\|b \$x\$ c |"
