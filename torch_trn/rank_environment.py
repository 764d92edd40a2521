"""What torchrun sets in the environment of a job's process, for ranks that run without one."""

from __future__ import annotations


def rank_environment(rank: int, world_size: int, local_world_size: int) -> dict[str, str]:
    """Of one rank of `world_size`, of which `local_world_size` are on each machine, in order."""
    values = {
        "RANK": rank,
        "LOCAL_RANK": rank % local_world_size,
        "GROUP_RANK": rank // local_world_size,
        "ROLE_RANK": rank,
        "ROLE_NAME": "default",
        "WORLD_SIZE": world_size,
        "LOCAL_WORLD_SIZE": local_world_size,
        "GROUP_WORLD_SIZE": -(-world_size // local_world_size),
        "ROLE_WORLD_SIZE": world_size,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": 29500,
        "TORCHELASTIC_RESTART_COUNT": 0,
        "TORCHELASTIC_MAX_RESTARTS": 0,
        "TORCHELASTIC_RUN_ID": "none",
    }
    return {name: str(value) for name, value in values.items()}
