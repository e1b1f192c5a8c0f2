"""Laws of the pytree verbs."""

import chex
import pytest
import torch

from optinfra import tree
from tests import examples

STATE = examples.state(0)


def test_named_leaves_are_the_leaves_under_the_names_of_their_fields():
    named = tree.named_leaves(STATE)
    assert list(map(id, named.values())) == list(map(id, tree.leaves(STATE)))
    assert named["hyper/learning_rate/value"] is STATE.hyper.learning_rate.value
    assert named["params/weights/actor.head.log_std"] is STATE.params.weights["actor.head.log_std"]


def test_replace_changes_the_named_leaf_and_no_other():
    new = torch.tensor(0.5)
    replaced = tree.replace(STATE, {"hyper/value_coef": new})
    assert type(replaced) is type(STATE) and replaced.hyper.value_coef is new
    expected = STATE._replace(hyper=STATE.hyper._replace(value_coef=new))
    chex.assert_trees_all_equal(replaced, expected)
    assert STATE.hyper.value_coef is not new


def test_replace_refuses_a_name_that_is_none_and_lists_those_alike():
    with pytest.raises(ValueError, match=r"got 'hyper/value_coeff'\. There are .*key"):
        tree.replace(STATE, {"hyper/value_coeff": torch.zeros(())})
    with pytest.raises(ValueError, match=r"got 'value_coef'\. There are hyper/value_coef\."):
        tree.replace(STATE, {"value_coef": torch.zeros(())})


def test_take_and_stack_are_inverse():
    members = [examples.state(k) for k in range(3)]
    stacked = tree.stack(members)
    chex.assert_trees_all_equal([tree.take(stacked, k) for k in range(3)], members)


def test_row_major_copies_what_lies_otherwise_and_nothing_else():
    lying = {"rows": torch.randn(3, 2), "one": torch.ones(()), "none": torch.ones(0, 4)}
    for name, x in tree.row_major(lying).items():
        assert x is lying[name]
    other = {
        "expanded": torch.randn(1).expand(3),
        "one member": torch.randn(1).as_strided((1,), (0,)),
        "turned": torch.randn(2, 3).T,
        "part": torch.randn(3, 2)[:, 0],
    }
    laid = tree.row_major(other)
    chex.assert_trees_all_equal(laid, other)
    assert {name: x.stride() for name, x in laid.items()} == {
        "expanded": (1,),
        "one member": (1,),
        "turned": (2, 1),
        "part": (1,),
    }


def test_blank_puts_zeros_of_each_dtype_along_the_leading_axes():
    xs = {
        "floats": torch.tensor([[1.0, torch.nan], [torch.inf, 2.0]]),
        "bytes": torch.tensor([7, 9], dtype=torch.uint8),
        "flags": torch.tensor([True, True]),
        "choices": torch.tensor([[3], [4]]),
    }
    blank = tree.blank(torch.tensor([False, True]), xs)
    assert blank["floats"][0].tolist() == [0, 0] and torch.equal(
        blank["floats"][1], xs["floats"][1]
    )
    assert [x.dtype for x in blank.values()] == [x.dtype for x in xs.values()]
    assert blank["bytes"].tolist() == [0, 9] and blank["flags"].tolist() == [False, True]
    assert blank["choices"].tolist() == [[0], [4]]


def test_where_chooses_member_by_member_along_the_leading_axes():
    a, b = (
        {"x": torch.zeros(2, 3), "n": torch.zeros(2)},
        {"x": torch.ones(2, 3), "n": torch.ones(2)},
    )
    chosen = tree.where(torch.tensor([True, False]), a, b)
    assert chosen["x"].tolist() == [[0, 0, 0], [1, 1, 1]] and chosen["n"].tolist() == [0, 1]
