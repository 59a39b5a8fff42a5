"""Conditioning rows."""

from __future__ import annotations

import pytest
import torch

from workbench.teachers import Conditioning


def rows(count: int) -> Conditioning:
    return Conditioning({"a": torch.arange(count), "b": torch.arange(2 * count).view(count, 2)})


def test_select_and_cat_keep_the_rows_together() -> None:
    picked = rows(4).select(torch.tensor([3, 0, 3]))
    assert picked["a"].tolist() == [3, 0, 3]
    assert picked["b"].tolist() == [[6, 7], [0, 1], [6, 7]]
    joined = Conditioning.cat([rows(2), picked])
    assert joined["a"].tolist() == [0, 1, 3, 0, 3]
    assert len(joined) == 5
    assert rows(4).select(slice(1, 3))["a"].tolist() == [1, 2]


def test_expand_repeats_one_row_without_copying() -> None:
    one = rows(3).select(slice(1, 2))
    many = one.expand(4)
    assert many["b"].tolist() == [[2, 3]] * 4
    assert many["b"].data_ptr() == one["b"].data_ptr()
    with pytest.raises(ValueError, match="single row"):
        rows(2).expand(4)


def test_rows_must_agree_in_number() -> None:
    with pytest.raises(ValueError, match="differ in batch size"):
        Conditioning({"a": torch.zeros(2), "b": torch.zeros(3)})
    with pytest.raises(ValueError, match="at least one"):
        Conditioning({})
