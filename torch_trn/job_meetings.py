"""Which calls that roles recorded apart are one call of the job: collectives of a group, both ends of a message."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch_trn.recording import Recording

Call = tuple[int, int]  # role, name in its journal


@dataclass(frozen=True, eq=False)
class Group:
    """One object to a group of the job: its ranks may be very many."""

    name: str
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class Issued:
    """A call as a role's journal has it."""

    name: int
    row: int | None
    tag: int
    op: str
    group: Group
    position: int
    other: int  # position of a message's other end, -1 for any

    @property
    def is_message(self) -> bool:
        return self.op in ("send", "recv")

    def text(self, recording: Recording) -> str:
        line = recording.ledger.data["collectives"][self.row]["line"] if self.row is not None else ""
        peer = ""
        if self.is_message:
            ranks = self.group.ranks
            peer = f" {'to' if self.op == 'send' else 'from'} rank {ranks[self.other] if self.other >= 0 else 'any'}"
        return f"{self.op}{peer}" + (f" at {line}" if line else "")


def _issued(recording: Recording, groups: dict[tuple[str, tuple[int, ...]], Group]) -> Iterator[Issued]:
    rows = recording.ledger.data["collectives"]
    known: dict[tuple[str, int], Group] = {}  # rows of a group share one list, or are few
    of_row = []
    for row in rows:
        key = str(row["group"]), id(row["ranks"])
        if key not in known:
            ranks = tuple(row["ranks"])
            known[key] = groups.setdefault((key[0], ranks), Group(key[0], ranks))
        of_row.append(known[key])
    nowhere = Group("", ())
    for step in recording.ledger.data["clock"]:
        if step[0] == "issue":
            _, _, _, name, row, tag = step
            if row is None:
                yield Issued(name, None, tag, "", nowhere, 0, -1)
            else:
                yield Issued(name, row, tag, rows[row]["op"], of_row[row], rows[row]["position"], rows[row]["root"])


class Meetings:
    """`partners`: of each call that others take part in, theirs. `unheard`: ranks that no role stands for."""

    def __init__(self, recordings: Mapping[int, Recording]) -> None:
        groups: dict[tuple[str, tuple[int, ...]], Group] = {}
        self.calls = {rank: list(_issued(recording, groups)) for rank, recording in recordings.items()}
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
        by_group: dict[Group, dict[int, list[Issued]]] = defaultdict(lambda: defaultdict(list))
        for rank, own in self.calls.items():
            for call in own:
                if call.row is not None and not call.is_message:
                    by_group[call.group][rank].append(call)
        for group, callers in by_group.items():
            members = [rank for rank in self.calls if rank in group.ranks]
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
                        f"{group.name}. The job would end with an error there, unless roles took other branches than "
                        "they would together: supply the values that they read."
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

    def _not_heard(self, rank: int, group: Group, other: int) -> None:
        self.unheard[rank].add(group.ranks[other] if other >= 0 else -1)

    def _stands_for(self, rank: int, group: Group, other: int) -> tuple[int, Group, int] | None:
        """The role at position `other`, the group in which it is there, and the position of `rank` in it."""
        ranks = group.ranks
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
        itself = there.ranks[position]
        back = (itself, there) if itself in self.calls else self._replica(role, there, position)
        return (role, there, position) if back == (rank, group) else None

    def _replica(self, rank: int, group: Group, other: int) -> tuple[int, Group] | None:
        ranks = group.ranks
        number = [own for own, _ in self._message_groups[rank] if own.ranks == ranks].index(group)
        for role, groups in self._message_groups.items():
            if role == rank:
                continue
            moved = [
                there
                for there, position in groups
                if position == other
                and len(there.ranks) == len(ranks)
                and len({mine - theirs for mine, theirs in zip(ranks, there.ranks, strict=True)}) == 1
            ]
            if len(moved) > number:
                return role, moved[number]
        return None
