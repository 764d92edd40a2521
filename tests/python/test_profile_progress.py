"""What a profile says before it has ended: progress, and a target that is not there."""

import pytest
import torch

import torch_trn


def test_progress_goes_on_after_the_steps_asked_for(device: torch.device) -> None:
    model = torch.nn.Linear(8, 4).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch_trn.profile(steps="1:3") as prof:
        seen = []
        for _ in range(5):
            seen.append(prof.progress())
            model(torch.ones(2, 8, device=device)).sum().backward()
            optimizer.step()
    launches = [progress[1] for progress in seen]
    assert launches[:2] == [0, 0] and 0 < launches[2] < launches[3] == launches[4] == prof.launches
    assert seen[4] == seen[3] and seen[3][0] == prof.steps == 2
    assert 0 < seen[2][2] < seen[3][2]


def test_an_unknown_target_is_an_error_before_the_run() -> None:
    with pytest.raises(ValueError, match=r"\[target\] must be a packaged target .*got 'nope'"):
        torch_trn.profile(target="nope")
