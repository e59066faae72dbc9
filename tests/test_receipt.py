"""A receipt says what was found, and admits what it did not see gone."""

from fleetctl.ending.receipt import Line, Receipt
from fleetctl.errors import StillBilling

GONE = Line("instance", "i-1", "us-east-1", "terminated", "terminated", gone=1_000_000.0, cost=0.5)
THERE = Line("instance", "i-2", "us-east-1", "not terminated", "OperationNotPermitted")


def test_a_receipt_with_everything_gone_says_so():
    receipt = Receipt((GONE,))
    assert receipt.remaining == ()
    assert "all seen gone" in receipt.headline()
    assert "$0.5" in repr(receipt)


def test_what_was_not_seen_gone_remains_and_is_named_by_the_error():
    receipt = Receipt((GONE, THERE))
    assert receipt.remaining == (THERE,)
    error = StillBilling(receipt)
    assert "i-2" in str(error)
    assert "i-1" not in str(error)
    assert "NOT SEEN" in repr(receipt)


def test_many_equal_lines_fold_into_one_row_that_counts_them():
    receipt = Receipt(tuple(Line("instance", f"i-{n}", "r", "terminated", "terminated", 5.0, 0.01) for n in range(100)))
    assert "100 × i-0 …" in repr(receipt)
    assert receipt._repr_html_().count("<tr>") == 2
    assert len(receipt.as_dict()["found"]) == 100


def test_html_of_a_receipt_escapes_what_came_from_outside():
    assert "<script>" not in Receipt((Line("x", "<script>", "r"),))._repr_html_()


def test_a_receipt_of_nothing_is_one_line_without_an_empty_table():
    assert repr(Receipt()) == "Receipt: nothing was found"
    assert "<table" not in Receipt()._repr_html_()


def test_what_ends_a_thing_that_remains_stands_under_the_table_and_in_the_error():
    way = "aws ec2 modify-instance-attribute --instance-id i-2 --no-disable-api-termination"
    receipt = Receipt((GONE, Line("instance", "i-2", "us-east-1", "not terminated", "OperationNotPermitted", cost=0.25, todo=way)))
    assert "$0.7500 so far" in receipt.headline()
    assert receipt.todo == (way,)
    assert way in " ".join(repr(receipt).split())
    assert way in receipt._repr_html_()
    assert way in str(StillBilling(receipt))
