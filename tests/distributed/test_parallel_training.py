"""Data, sharded, tensor, sequence, pipeline and optimizer parallelism, each against itself on the CPU over gloo."""

import pytest
import torch
import trainings

BOTH = [
    *trainings.TWO_RANKS,
    "ddp_device_ids",
    "ddp_join",
    "ddp_powersgd",
    "pipeline_looped_bfs",
    "pipeline_zbv",
    "pipeline_dualpipe",
    "distributed_tensors",
]
FOUR = ["ddp", "fsdp2", "hsdp", "two_dimensional", "tensor_parallel", "pipeline_interleaved", "distributed_tensors"]


def assert_as_on_the_cpu(ranks, name):
    """Values, bit by bit."""
    training = getattr(trainings, name)
    expected, got = ranks(training, "cpu"), ranks(training, "trn")
    for rank, (theirs, ours) in enumerate(zip(expected, got)):
        assert len(theirs) == len(ours) > 0
        for number, (a, b) in enumerate(zip(theirs, ours)):
            assert torch.isfinite(a).all()
            assert torch.equal(a, b), (rank, number, (a - b).abs().max())


@pytest.mark.parametrize("name", BOTH)
def test_two_ranks(name, two_ranks):
    assert_as_on_the_cpu(two_ranks, name)


@pytest.mark.parametrize("name", FOUR)
def test_four_ranks(name, four_ranks):
    assert_as_on_the_cpu(four_ranks, name)
