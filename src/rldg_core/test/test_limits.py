"""Ranges, choices and names: one line states what was found and what was expected."""

import pytest

from rldg_core.errors import UserError
from rldg_core.limits import check_name, check_value


def test_values_within_their_range_are_accepted() -> None:
    check_value("x", 5, low=5, high=5)
    check_value("x", [0.0, 1.0], low=0.0, high=1.0)
    check_value("x", "b", choices=("a", "b"))
    check_value("x", True)


@pytest.mark.parametrize(
    ("value", "limits", "message"),
    [
        (-1, {"low": 0}, "x: expected 0 or more, got -1"),
        (3.5, {"low": 0.0, "high": 3.0}, "x: expected 0.0 to 3.0, got 3.5"),
        (float("nan"), {"low": 0.0}, "x: expected a finite number, got nan"),
        ([0.0, float("inf")], {}, "x: expected a finite number, got inf"),
        ("c", {"choices": ("a", "b", "d")}, "x: expected a, b or d, got 'c'"),
    ],
)
def test_values_outside_their_range_are_refused(value: object, limits: dict[str, float], message: str) -> None:
    with pytest.raises(UserError) as refused:
        check_value("x", value, **limits)  # type: ignore[arg-type]
    assert str(refused.value) == message


def test_misspelt_name_is_refused_with_the_nearest_ones() -> None:
    known = ("record", "record_topics", "robot_ip", "seed")
    check_name("argument", "seed", known)
    with pytest.raises(UserError, match=r"^unknown argument 'recrod', expected record$"):
        check_name("argument", "recrod", known)
    with pytest.raises(UserError, match=r"^unknown argument 'xyz', expected record, record_topics, robot_ip or seed$"):
        check_name("argument", "xyz", known)


def test_found_value_is_shortened_in_the_message() -> None:
    with pytest.raises(UserError, match=r"^x: expected a, got 'c+\.\.\.'$") as refused:
        check_value("x", "c" * 5_000_000, choices=("a",))
    assert len(str(refused.value)) < 200
