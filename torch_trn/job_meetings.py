"""Which calls that roles recorded apart are one call of the job: collectives of a group, both ends of a message."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch_trn.recording import Recording

Call = tuple[int, int]  # role, name in its journal


@dataclass(frozen=True)
class Issued:
    """A call as a role's journal has it."""

    name: int
    row: int | None
    tag: int
    op: str
    group: tuple[str, tuple[int, ...]]
    position: int
    other: int  # position of a message's other end, -1 for any

    @property
    def is_message(self) -> bool:
        return self.op in ("send", "recv")

    def text(self, recording: Recording) -> str:
        line = recording.ledger.data["collectives"][self.row]["line"] if self.row is not None else ""
        peer = ""
        if self.is_message:
            ranks = self.group[1]
            peer = f" {'to' if self.op == 'send' else 'from'} rank {ranks[self.other] if self.other >= 0 else 'any'}"
        return f"{self.op}{peer}" + (f" at {line}" if line else "")


def issued_calls(recording: Recording) -> Iterator[Issued]:
    rows = recording.ledger.data["collectives"]
    groups = [(str(row["group"]), tuple(row["ranks"])) for row in rows]
    for step in recording.ledger.data["clock"]:
        if step[0] == "issue":
            _, _, _, name, row, tag = step
            if row is None:
                yield Issued(name, None, tag, "", ("", ()), 0, -1)
            else:
                yield Issued(name, row, tag, rows[row]["op"], groups[row], rows[row]["position"], rows[row]["root"])


class Meetings:
    """`partners`: of each call that others take part in, theirs. `unheard`: ranks that no role stands for."""

    def __init__(self, recordings: Mapping[int, Recording]) -> None:
        self.calls = {rank: list(issued_calls(recording)) for rank, recording in recordings.items()}
        self.partners: dict[Call, list[Call]] = {}
        self.unheard: dict[int, set[int]] = defaultdict(set)
        self._recordings = recordings
        self._message_groups = {
            rank: list(dict.fromkeys((call.group, call.position) for call in own if call.is_message))
            for rank, own in self.calls.items()
        }
        self._match_collectives()
        self._match_messages()

    def _match_collectives(self) -> None:
        by_group: dict[Any, dict[int, list[Issued]]] = defaultdict(lambda: defaultdict(list))
        for rank, own in self.calls.items():
            for call in own:
                if call.row is not None and not call.is_message:
                    by_group[call.group][rank].append(call)
        for (name, ranks), callers in by_group.items():
            members = [rank for rank in self.calls if rank in ranks]
            if len(members) < 2:
                continue
            for number in range(max(len(callers[rank]) for rank in members)):
                together = {rank: callers[rank][number] if number < len(callers[rank]) else None for rank in members}
                if len({call.op if call else None for call in together.values()}) > 1:
                    made = ", ".join(
                        f"{call.text(self._recordings[rank]) if call else 'none'} on role {rank}"
                        for rank, call in together.items()
                    )
                    raise RuntimeError(
                        f"[job clock] the ranks of a group make the same calls; got {made} as call {number} of group "
                        f"{name}. The job would end with an error there, unless roles took other branches than they "
                        "would together: supply the values that they read."
                    )
                met = [(rank, call.name) for rank, call in together.items() if call]
                for each in met:
                    self.partners[each] = [other for other in met if other != each]

    def _match_messages(self) -> None:
        channels: dict[Any, list[Issued]] = defaultdict(list)
        for rank, own in self.calls.items():
            for call in own:
                if call.is_message:
                    channels[rank, call.op, call.group, call.other, call.tag].append(call)
        for (rank, op, group, other, tag), own_calls in channels.items():
            peer = self._stands_for(rank, group, other)
            if peer is None:
                self._not_heard(rank, group, other)
                continue
            role, there, position = peer
            theirs = channels.get((role, "recv" if op == "send" else "send", there, position, tag), [])
            if len(theirs) != len(own_calls):
                if any(call.other < 0 for call in (*self.calls[role], *self.calls[rank]) if call.op == "recv"):
                    self._not_heard(rank, group, other)
                    continue
                example = max(own_calls, theirs, key=len)[0]
                owner = rank if len(own_calls) > len(theirs) else role
                raise RuntimeError(
                    f"[job clock] every send meets a recv; got {len(own_calls)} of {op} on role {rank} and "
                    f"{len(theirs)} of its other end on role {role}, tag {tag}: see "
                    f"{example.text(self._recordings[owner])} on role {owner}. The job would not end."
                )
            for mine, call in zip(own_calls, theirs, strict=True):
                self.partners[rank, mine.name] = [(role, call.name)]

    def _not_heard(self, rank: int, group: tuple[str, tuple[int, ...]], other: int) -> None:
        self.unheard[rank].add(group[1][other] if other >= 0 else -1)

    def _stands_for(self, rank: int, group: Any, other: int) -> tuple[int, Any, int] | None:
        """The role at position `other`, the group in which it is there, and the position of `rank` in it."""
        ranks = group[1]
        position = ranks.index(rank)
        if other < 0:
            return None
        if ranks[other] in self.calls:
            return ranks[other], group, position
        found = self._replica(rank, group, other)
        if found is None:
            return None
        role, there = found
        # Who stands for a peer must take this role for its own.
        back = (
            (ranks_there[position], there)
            if (ranks_there := there[1])[position] in self.calls
            else self._replica(role, there, position)
        )
        return (role, there, position) if back == (rank, group) else None

    def _replica(self, rank: int, group: Any, other: int) -> tuple[int, Any] | None:
        ranks = group[1]
        number = [name for (name, those), _ in self._message_groups[rank] if those == ranks].index(group[0])
        for role, groups in self._message_groups.items():
            if role == rank:
                continue
            moved = [
                there
                for there, position in groups
                if position == other
                and len(there[1]) == len(ranks)
                and len({mine - theirs for mine, theirs in zip(ranks, there[1], strict=True)}) == 1
            ]
            if len(moved) > number:
                return role, moved[number]
        return None
