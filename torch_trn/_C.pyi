"""The compiled extension, as type checkers see it."""

from collections.abc import Callable, Sequence
from typing import Any

class Tile:
    @property
    def dtype(self) -> str: ...
    @property
    def memory(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def array(self) -> Any: ...
    def part(self, partitions: int, start: int, size: int, start_partition: int = 0) -> Tile: ...
    def pattern(
        self, partitions: int, start: int, pattern: Sequence[tuple[int, int]], start_partition: int = 0
    ) -> Tile: ...
    def read(self) -> Any: ...
    def write(self, values: Any) -> None: ...

class Register:
    @property
    def number(self) -> int: ...
    @property
    def value(self) -> int: ...
    def __int__(self) -> int: ...
    def __bool__(self) -> bool: ...

class LogicalCore:
    def __init__(self, target: Any, num_cores: int = 1, synchronization: str = "automatic") -> None: ...
    @property
    def num_joined(self) -> int: ...
    def abandon(self) -> None: ...
    def require_settled(self, where: str) -> None: ...
    def set_wait(self, wait: Callable[[int, str], None] | None) -> None: ...
    def timeline(self) -> dict[str, Any]: ...

class NeuronCore:
    def __init__(
        self, logical: LogicalCore, rank: int = 0, seed: int = 0, *, strict: bool = False, **departures: Any
    ) -> None: ...
    @property
    def rank(self) -> int: ...
    def counts(self) -> dict[str, Any]: ...
    def sbuf(
        self, dtype: str, partitions: int, elements: int, name: str = "tile", start_partition: int = 0
    ) -> Tile: ...
    def psum(
        self, dtype: str, partitions: int, elements: int, name: str = "tile", start_partition: int = 0
    ) -> Tile: ...
    def hbm(self, array_or_shape: Any, dtype: str = "float32") -> Tile: ...
    def load(self, tile: Tile, array: Any) -> None: ...
    def store(self, array: Any, tile: Tile) -> None: ...
    def dma_copy(
        self,
        dst: Tile,
        src: Tile,
        priority: int | None = None,
        oob_mode: str = "error",
        dge_mode: str = "unknown",
        engine: str | None = None,
        dst_rmw_op: str | None = None,
        queue: int | None = None,
    ) -> None: ...
    def dma_compute(
        self,
        dst: Tile,
        srcs: Sequence[Tile],
        reduce_op: str,
        scales: Sequence[float] | None = None,
        unique_indices: bool = True,
        oob_mode: str = "error",
        queue: int | None = None,
    ) -> None: ...
    def dma_transpose(
        self,
        dst: Tile,
        src: Tile,
        axes: Sequence[int] | None = None,
        priority: int | None = None,
        dge_mode: str = "unknown",
        oob_mode: str = "error",
        queue: int | None = None,
    ) -> None: ...
    def dma_gather(
        self, dst: Tile, src: Tile, index: Tile, oob_mode: str = "error", queue: int | None = None
    ) -> None: ...
    def dma_scatter(
        self,
        dst: Tile,
        src: Tile,
        index: Tile,
        dst_rmw_op: str | None = None,
        oob_mode: str = "error",
        queue: int | None = None,
    ) -> None: ...
    def nc_matmul(
        self,
        dst: Tile,
        stationary: Tile,
        moving: Tile,
        is_stationary_onezero: bool = False,
        is_moving_onezero: bool = False,
        is_transpose: bool = False,
        accumulate: bool | None = None,
        tile_position: Sequence[int] | None = None,
        tile_size: Sequence[int] | None = None,
        perf_mode: str = "none",
    ) -> None: ...
    def nc_matmul_mx(
        self,
        dst: Tile,
        stationary: Tile,
        moving: Tile,
        stationary_scale: Tile,
        moving_scale: Tile,
        tile_position: Sequence[int] | None = None,
        tile_size: Sequence[int] | None = None,
        accumulate: bool | None = None,
    ) -> None: ...
    def nc_transpose(self, dst: Tile, data: Tile, engine: str | None = None) -> None: ...
    def tensor_tensor(self, dst: Tile, data1: Tile, data2: Tile, op: str, engine: str | None = None) -> None: ...
    def tensor_scalar(
        self,
        dst: Tile,
        data: Tile,
        op0: str,
        operand0: float | Tile | None = None,
        reverse0: bool = False,
        op1: str | None = None,
        operand1: float | Tile | None = None,
        reverse1: bool = False,
        engine: str | None = None,
    ) -> None: ...
    def scalar_tensor_tensor(
        self,
        dst: Tile,
        data: Tile,
        op0: str,
        operand0: float | Tile,
        op1: str,
        operand1: Tile,
        reverse0: bool = False,
        reverse1: bool = False,
    ) -> None: ...
    def tensor_copy(self, dst: Tile, src: Tile, engine: str | None = None) -> None: ...
    def tensor_copy_predicated(
        self, dst: Tile, src: float | Tile, predicate: Tile, reverse_pred: bool = False
    ) -> None: ...
    def select(self, dst: Tile, predicate: Tile, on_true: Tile, on_false: float | Tile) -> None: ...
    def reciprocal(self, dst: Tile, data: Tile) -> None: ...
    def memset(self, dst: Tile, value: float, engine: str | None = None) -> None: ...
    def dropout(self, dst: Tile, data: Tile, prob: float | Tile) -> None: ...
    def activation(
        self,
        dst: Tile,
        op: str,
        data: Tile,
        bias: float | Tile | None = None,
        scale: float | Tile = 1.0,
        reduce_op: str | None = None,
        reduce_res: Tile | None = None,
        reduce_cmd: str = "idle",
        engine: str | None = None,
    ) -> None: ...
    def activate2(
        self,
        dst: Tile,
        op: str,
        data: Tile,
        imm0: float | Tile,
        imm1: float | Tile,
        op0: str | None,
        op1: str | None,
        relu_param: float | Tile = 0.0,
        reverse0: bool = False,
        reverse1: bool = False,
        reduce_op: str | None = None,
        reduce_res: Tile | None = None,
        reduce_cmd: str = "idle",
        engine: str | None = None,
    ) -> None: ...
    def activation_reduce(
        self,
        dst: Tile,
        op: str,
        data: Tile,
        reduce_op: str,
        reduce_res: Tile | None = None,
        bias: float | Tile | None = None,
        scale: float | Tile = 1.0,
    ) -> None: ...
    def tensor_reduce(
        self, dst: Tile, op: str, data: Tile, axis: int | Sequence[int], negate: bool = False, keepdims: bool = False
    ) -> None: ...
    def tensor_scalar_reduce(
        self,
        dst: Tile,
        data: Tile,
        op0: str,
        operand0: float | Tile | None,
        reduce_op: str,
        reduce_res: Tile | None = None,
        reverse0: bool = False,
        reduce_cmd: str = "reset_reduce",
        reduce_init: float | Tile | None = None,
        reduce_res_negate: bool = False,
    ) -> None: ...
    def tensor_scalar_cumulative(
        self,
        dst: Tile,
        src: Tile,
        op0: str,
        op1: str,
        imm0: float | Tile,
        imm1: float | Tile | None = None,
        reduce_cmd: str = "reset_reduce",
    ) -> None: ...
    def tensor_tensor_scan(
        self,
        dst: Tile,
        data0: Tile,
        data1: Tile,
        initial: float | Tile,
        op0: str,
        op1: str,
        reverse0: bool = False,
        reverse1: bool = False,
    ) -> None: ...
    def bn_stats(self, dst: Tile, data: Tile) -> None: ...
    def bn_aggr(self, dst: Tile, data: Tile) -> None: ...
    def select_reduce(
        self,
        dst: Tile,
        predicate: Tile,
        on_true: Tile,
        on_false: float | Tile,
        reduce_res: Tile | None = None,
        reduce_cmd: str = "idle",
        reduce_op: str = "maximum",
        reverse_pred: bool = False,
    ) -> None: ...
    def range_select(
        self,
        dst: Tile,
        on_true_tile: Tile,
        comp_op0: str,
        comp_op1: str,
        bound0: Tile,
        bound1: Tile,
        reduce_cmd: str = "reset_reduce",
        reduce_res: Tile | None = None,
        reduce_op: str = "maximum",
        range_start: float = 0.0,
        on_false_value: float = -3.4028234663852886e38,
    ) -> None: ...
    def exponential(
        self,
        dst: Tile,
        src: Tile,
        max_value: float | Tile = 0.0,
        reduce_res: Tile | None = None,
        reduce_cmd: str = "idle",
        reduce_init: float | Tile = 0.0,
    ) -> None: ...
    def max8(self, dst: Tile, src: Tile) -> None: ...
    def nc_find_index8(self, dst: Tile, data: Tile, vals: Tile) -> None: ...
    def nc_match_replace8(self, dst: Tile, data: Tile, vals: Tile, imm: float, dst_idx: Tile | None = None) -> None: ...
    def nc_stream_shuffle(self, dst: Tile, src: Tile, shuffle_mask: Sequence[int]) -> None: ...
    def quantize_mx(self, dst: Tile, src: Tile, dst_scale: Tile) -> None: ...
    def iota(
        self, dst: Tile, pattern: Sequence[tuple[int, int]], offset: int = 0, channel_multiplier: int = 0
    ) -> None: ...
    def affine_select(
        self,
        dst: Tile,
        pattern: Sequence[tuple[int, int]],
        channel_multiplier: int,
        on_true_tile: Tile,
        on_false_value: float,
        cmp_op: str = "equal",
        offset: int = 0,
    ) -> None: ...
    def rng(self, dst: Tile, engine: str | None = None) -> None: ...
    def rand2(self, dst: Tile, min: float | Tile, max: float | Tile) -> None: ...
    def rand_set_state(self, src_seeds: Tile, engine: str | None = None) -> None: ...
    def rand_get_state(self, dst: Tile, engine: str | None = None) -> None: ...
    def nonzero_with_count(self, dst: Tile, src: Tile, index_offset: int = 0, padding_val: int = -1) -> None: ...
    def topk(self, val_dst: Tile, idx_dst: Tile, src: Tile, n: int) -> None: ...
    def set_rng_seed(self, src_seeds: Tile) -> None: ...
    def local_gather(
        self, dst: Tile, src_buffer: Tile, index: Tile, num_elem_per_idx: int = 1, num_valid_indices: int | None = None
    ) -> None: ...
    def nc_n_gather(self, dst: Tile, data: Tile, indices: Tile) -> None: ...
    def tensor_partition_reduce(self, dst: Tile, op: str, data: Tile) -> None: ...
    def sequence_bounds(self, dst: Tile, segment_ids: Tile) -> None: ...
    def register_alloc(self, x: Register | Tile | int | None = None) -> Register: ...
    def register_load(self, dst: Register | int, src: Tile) -> None: ...
    def register_store(self, dst: Tile, src: Register | int) -> None: ...
    def register_move(self, dst: Register | int, src: Register | int) -> None: ...
    def register_value(self, index: Register | int) -> int: ...
    def semaphore_increment(
        self, semaphore: int, value: int = 1, engine: str = "sync", queue: int | None = None
    ) -> None: ...
    def semaphore_wait(self, semaphore: int, value: int, engine: str = "sync", queue: int | None = None) -> None: ...
    def core_barrier(self, data: Tile, cores: Sequence[int], engine: str | None = "gpsimd") -> None: ...
    def sendrecv(
        self,
        src: Tile,
        dst: Tile,
        send_to_rank: int,
        recv_from_rank: int,
        pipe_id: int,
        dma_engine: str = "dma",
        queue: int | None = None,
    ) -> None: ...
    def sendrecv_compute(
        self,
        src: Tile,
        dst: Tile,
        send_to_rank: int,
        recv_from_rank: int,
        reduce_op: str,
        queue: int | None = None,
    ) -> None: ...

def instructions() -> list[dict[str, Any]]: ...
def __getattr__(name: str) -> Any: ...
