"""Collectives step by step, chunk by chunk: the oracle of the closed forms in csrc/runtime/collective_cost.cpp.

Transfers are lists of (from, to, chunks) per step, by position in the order of the algorithm. Every algorithm here is
run on sets of chunks, so that one which does not leave each rank with its result fails by itself.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

Step = list[tuple[int, int, frozenset[int]]]


def gathered(steps: list[Step], n: int) -> list[Step]:
    """The same steps, after checking that all have everything in the end and nobody sends what it does not have."""
    have = [{i} for i in range(n)]
    for step in steps:
        for source, _, chunks in step:
            assert chunks <= have[source]
        for _, to, chunks in step:
            have[to] |= chunks
    assert all(one == set(range(n)) for one in have)
    return steps


def scattered(steps: list[Step], n: int) -> list[Step]:
    """An all_gather backwards is a reduce_scatter: partial sums take the way that copies took."""
    summed = [[{i} for _ in range(n)] for i in range(n)]
    back = [[(to, source, chunks) for source, to, chunks in step] for step in reversed(steps)]
    for step in back:
        moved = [(to, chunk, set(summed[source][chunk])) for source, to, chunks in step for chunk in chunks]
        for to, chunk, parts in moved:
            assert not summed[to][chunk] & parts, "a part is added twice"
            summed[to][chunk] |= parts
    assert all(summed[i][i] == set(range(n)) for i in range(n))
    return back


def ring(n: int) -> list[Step]:
    return gathered([[(i, (i + 1) % n, frozenset({(i - s) % n})) for i in range(n)] for s in range(n - 1)], n)


def kangaring(n: int) -> list[Step]:
    """Both ways at once; the last chunk of an even number comes from one side only."""
    steps: list[Step] = []
    for s in range((n - 1) // 2):
        forward = [(i, (i + 1) % n, frozenset({(i - s) % n})) for i in range(n)]
        steps.append(forward + [(i, (i - 1) % n, frozenset({(i + s) % n})) for i in range(n)])
    if n % 2 == 0:
        s = (n - 1) // 2
        steps.append([(i, (i + 1) % n, frozenset({(i - s) % n})) for i in range(n)])
    return gathered(steps, n)


def mesh(n: int) -> list[Step]:
    return gathered([[(i, j, frozenset({i})) for i in range(n) for j in range(n) if i != j]], n)


def rdh(n: int) -> list[Step]:
    steps, have, distance = [], [frozenset({i}) for i in range(n)], 1
    while distance < n:
        steps.append([(i, i ^ distance, have[i]) for i in range(n)])
        have = [have[i] | have[i ^ distance] for i in range(n)]
        distance *= 2
    return gathered(steps, n)


ALGORITHMS = {"ring": ring, "kangaring": kangaring, "mesh": mesh, "rdh": rdh}
# Reads and writes of HBM per byte sent, gathering and scattering.
TOUCHES = {"ring": (4, 6), "mesh": (4, 6), "rdh": (4, 6), "kangaring": (3, 4)}


@dataclass
class Machine:
    """Linearly placed ranks on instances of a target: where they are, and what a step of transfers takes."""

    record: Any
    instance: str
    world_size: int

    def __post_init__(self) -> None:
        (self.system,) = [one for one in self.record["instances"] if one["name"] == self.instance]
        self.per_chip = self.record["chip"]["num_devices"]
        self.links = {link["name"]: link for link in self.system["links"]}
        self.on_chip = self.record["chip"]["links"][0]

    def chip(self, rank: int) -> tuple[int, int]:
        """Instance, and chip in it."""
        return divmod(rank // self.per_chip, self.system["num_chips"])

    def rings(self) -> list[tuple[str, int, int, float]]:
        """(link, size, stride, bytes/s of one direction) of each dimension of the instance."""
        out, stride = [], 1
        for link in self.system["links"]:
            size, rate = link["num_chips"], link["bytes_per_second"]
            if link["topology"] == "torus_2d":
                side = round(size**0.5)
                assert side * side == size
                out += [(link["name"], side, stride, rate / 4), (link["name"], side, stride * side, rate / 4)]
            elif link["topology"] == "ring":
                out.append((link["name"], size, stride, rate / 2))
            else:
                continue
            stride *= size
        return out

    def ring_key(self, rank: int) -> tuple[int, ...]:
        """To and fro through the torus, so that neighbours are one hop apart."""
        instance, chip = self.chip(rank)
        digits, prefix = [], 0
        for _, size, stride, _ in reversed(self.rings()):
            at = chip // stride % size
            digits.append(size - 1 - at if prefix % 2 else at)
            prefix = prefix * size + digits[-1]
        return instance, *(digits or [chip]), rank % self.per_chip

    def step_seconds(
        self, transfers: list[tuple[int, int, float]], rate: float, touches: float, group: list[int]
    ) -> float:
        """One hop, then the slowest of devices, links, network and HBM. Transfers are (rank, rank, bytes)."""
        sent, received, away, loads = defaultdict(float), defaultdict(float), defaultdict(float), defaultdict(float)
        hop = 0.0
        for source, to, size in transfers:
            sent[source] += size
            received[to] += size
            (a_instance, a), (b_instance, b) = self.chip(source), self.chip(to)
            if a_instance != b_instance:
                away["out", source] += size
                away["in", to] += size
                hop = max(hop, self.links["efa"]["latency_seconds"])
            elif a == b:
                hop = max(hop, self.on_chip["latency_seconds"])
            else:
                hop = max(hop, self.route(a_instance, a, b, size, loads))
        busiest = max([*sent.values(), *received.values()])
        here = [rank for rank in range(self.world_size) if self.chip(rank) == self.chip(group[0])]
        ours = [rank for rank in here if rank in group]
        sharing = len(here) / len(ours)  # groups of the job's other ranks do the same
        seconds = [busiest / rate, touches * busiest / self.record["device"]["hbm_bytes_per_second"]]
        seconds += [sharing * size / link_rate for (_, _, _, link_rate), size in loads.items()]
        if away:
            seconds.append(
                max(away.values()) / (self.links["efa"]["bytes_per_second"] / min(self.per_chip, self.world_size))
            )
        return hop + max(seconds)

    def route(self, instance: int, a: int, b: int, size: float, loads: dict[Any, float]) -> float:
        """Adds the bytes to each directed link on the shortest way; both ways round where they are as long."""
        seconds, at = 0.0, a
        dimensions = self.rings()
        if not dimensions:
            link = self.links["neuronlink"]
            loads[instance, a, "out", link["bytes_per_second"]] += size
            loads[instance, b, "in", link["bytes_per_second"]] += size
            return float(link["latency_seconds"])
        for name, length, stride, rate in dimensions:
            there, here = b // stride % length, at // stride % length
            forward, backward = (there - here) % length, (here - there) % length
            ways = [way for way, hops in ((1, forward), (-1, backward)) if hops and hops == min(forward, backward)]
            for way in ways:
                for hop in range(min(forward, backward)):
                    on = at + ((here + way * hop) % length - here) * stride
                    loads[instance, on, (stride, way), rate] += size / len(ways)
            seconds += min(forward, backward) * self.links[name]["latency_seconds"]
            at += (there - here) * stride
        return seconds

    def seconds(self, algorithm: str, scatter: bool, group: list[int], size: float, rate: float) -> float:
        """A reduce_scatter or all_gather of `size` bytes in all, over ranks of one instance."""
        order = sorted(group, key=self.ring_key) if "ring" in algorithm else sorted(group)
        steps = ALGORITHMS[algorithm](len(order))
        if scatter:
            steps = scattered(steps, len(order))
        chunk = size / len(order)
        touches = TOUCHES[algorithm][scatter]
        return sum(
            self.step_seconds([(order[a], order[b], chunk * len(c)) for a, b, c in step], rate, touches, group)
            for step in steps
        )
