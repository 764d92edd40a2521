"""Groups' streams: their own while the group lives, given back after."""

import torch
import torch.distributed as dist

import torch_trn


def groups_come_and_go():
    dist.init_process_group()
    x = torch.ones(4, device="trn")
    before = {torch.Stream(device="trn").stream_id for _ in range(2)}
    for _ in range(40):
        group = dist.new_group()
        dist.all_reduce(x, group=group)
        dist.destroy_process_group(group)
    after = {torch.Stream(device="trn").stream_id for _ in range(2)}
    dist.all_reduce(x)
    return before, after


def test_users_streams_are_not_the_groups():
    """A user's stream runs at the side of collectives: 40 groups later there are as many of them as before."""
    for before, after in torch_trn.simulate(groups_come_and_go, 2).results:
        assert len(before | after) == 4
        assert max(after) <= max(before) + 3
