"""A study's tables stand in its database, beside the product's own and never in their place, and as CSV."""

import pytest
from study.lab import Lab

ROWS = [{"part": "reply", "d": 1.23456, "n": 3, "note": None}, {"part": "prompt", "d": 0.5, "n": 4, "note": "x"}]


@pytest.fixture
def lab(tmp_path):
    lab = Lab("some_study", work=tmp_path)
    lab.folder = tmp_path
    return lab


def test_a_table_is_replaced_and_written_as_csv(lab, tmp_path):
    lab.table("found", ROWS[:1])
    lab.table("found", ROWS)
    assert lab.sql("select part, d, n, note from found order by n") == ROWS
    assert (tmp_path / "found.csv").read_text() == "part,d,n,note\nreply,1.235,3,\nprompt,0.5,4,x\n"


@pytest.mark.parametrize("name", ["cells", "projections", "runs"])
def test_a_table_of_the_result_database_is_never_replaced(lab, name):
    with pytest.raises(ValueError, match=name):
        lab.table(name, ROWS)
