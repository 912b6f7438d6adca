"""Shapes without weights: what comes out is what a module with weights gives."""

import pytest
import torch
from torch import nn

from harness.models.hollow import Hollow, Unknowable, hollow


class Masked(nn.Module):
    """Looks into its input, never into what it computed."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 4)
        self.register_buffer("scale", torch.ones(4))

    def forward(self, x):
        kept = x[x.sum(-1) > 0]  # a real mask on a real tensor
        out = self.linear(kept) * self.scale
        places = torch.arange(len(out)) % 2 == 0
        out[places] += 1  # a real mask on a hollow one
        return out[places].softmax(-1), out


def test_shapes_are_those_of_the_module_with_weights():
    x = torch.tensor([[1.0] * 8, [-1.0] * 8, [2.0] * 8, [3.0] * 8])
    module = hollow(Masked)
    assert all(isinstance(held, Hollow) for held in (module.linear.weight, module.scale))
    with torch.no_grad():
        made, real = module(x), Masked()(x)
    assert [(one.shape, one.dtype, one.device) for one in made] == [(one.shape, one.dtype, one.device) for one in real]
    assert made[0].shape == (2, 4)


def test_giants_cost_nothing():
    with torch.no_grad():
        made = hollow(lambda: nn.Linear(10**6, 10**6))(torch.zeros(3, 10**6))
    assert made.shape == (3, 10**6)


def test_shapes_that_do_not_fit_are_the_module_s_own_fault():
    with pytest.raises(RuntimeError, match="must have same reduction dim"), torch.no_grad():
        hollow(lambda: nn.Linear(8, 4))(torch.zeros(3, 9))


@pytest.mark.parametrize("look", [lambda out: out[0, 0].item(), lambda out: out[out > 0], lambda out: out.nonzero()])
def test_content_that_is_not_there_is_not_made_up(look):
    with pytest.raises(Unknowable), torch.no_grad():
        look(hollow(lambda: nn.Linear(8, 4))(torch.zeros(3, 8)))
