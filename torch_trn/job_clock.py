"""The simulated clocks of a job's roles, run again side by side: who waits for whom, and when each is done."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch_trn.job_meetings import Call, Meetings
from torch_trn.recording import Recording

Times = Sequence[int]
_PICOSECONDS = 1e12


def _picoseconds(seconds: float) -> int:
    return int(seconds * _PICOSECONDS + 0.5)


@dataclass(frozen=True)
class RoleTime:
    """Seconds of one role. Its device is occupied until the last role is done, which is the job's time."""

    seconds: float  # until its own work is done, waiting for other roles included
    alone_seconds: float  # the same, had every peer come when this role did
    waiting_seconds: float  # the job's time less `alone_seconds`: a pipeline's bubble

    @property
    def waiting_share(self) -> float:
        """Of the job's time: 0 to 1."""
        whole = self.alone_seconds + self.waiting_seconds
        return self.waiting_seconds / whole if whole else 0.0


@dataclass(frozen=True)
class Span:
    """Seconds from the start. `launches` are [entry of the ledger, how many]; `call` is a row of `collectives`."""

    rank: int
    device: int
    stream: int
    begin: float
    end: float
    launches: Sequence[Sequence[int]]
    call: Mapping[str, Any] | None


class JobClock:
    """What roles recorded apart (`profile(clock=True)`), run again with each other to wait for.

    A message begins when both its ends have come, a collective when the last role among its ranks has; both take the
    time that the recordings give them. Compute that waits for neither goes on. A role is itself. A rank that is none
    is stood for, in messages, by the role at its place in a group of the same ranks moved by a constant, where there is
    one: another replica of a pipeline. Else it comes when the role does that speaks with it, see `unheard`.

    Args:
        recordings: by rank of the role, on one target and in one mode.
        call_seconds: of each row of each recording's `collectives`, in place of the recorded placement's.

    Raises:
        ValueError: a recording without its clock.
        RuntimeError: the roles make calls that do not fit together, or wait for each other for ever.
    """

    def __init__(
        self, recordings: Mapping[int, Recording], call_seconds: Mapping[int, Sequence[float]] | None = None
    ) -> None:
        self._recordings = dict(recordings)
        self._call_seconds = call_seconds
        for rank, recording in self._recordings.items():
            if "clock" not in recording.ledger.data:
                raise ValueError(
                    f"[job clock] takes recordings that keep what the clock did; got one of rank {rank} without. "
                    "Record with profile(clock=True), once."
                )
        self._meetings = Meetings(self._recordings)

    @property
    def unheard(self) -> dict[int, list[int]]:
        """Role -> the ranks of its messages that no role stands for, and that are taken to come when it does."""
        return {rank: sorted(peers) for rank, peers in self._meetings.unheard.items()}

    @property
    def is_coupled(self) -> bool:
        """Some role takes part in a call of another."""
        return bool(self._meetings.partners)

    @cached_property
    def times(self) -> dict[int, RoleTime]:
        """By rank of the role."""
        alone = {rank: role.end for rank, role in self._run({}).items()}
        end = max(role.end for role in self._together.values())
        return {
            rank: RoleTime(
                role.end / _PICOSECONDS,
                alone[rank] / _PICOSECONDS,
                (end - alone[rank]) / _PICOSECONDS,
            )
            for rank, role in self._together.items()
        }

    @cached_property
    def _together(self) -> dict[int, _Role]:
        return self._run(self._meetings.partners)

    def spans(self) -> Iterator[Span]:
        """What every role does when, side by side: a span for launches that follow each other, and for each call."""
        for rank, role in self._together.items():
            for device, stream, start, end, launches in role.stretches:
                yield Span(rank, device, stream, start / _PICOSECONDS, end / _PICOSECONDS, launches, None)
            for call in self._meetings.calls[rank]:
                flight = role.flights[call.name]
                if call.row is not None and flight.end is not None:
                    row = self._recordings[rank].communication.rows[call.row]
                    begin, end = flight.end - flight.seconds, flight.end
                    yield Span(rank, row["device"], row["stream"], begin / _PICOSECONDS, end / _PICOSECONDS, [], row)

    def times_with(self, beside_seconds: Mapping[int, float]) -> dict[int, RoleTime]:
        """`times` where roles take so much longer than their clocks know: all wait for the one that loses most."""
        most = max(beside_seconds.values())
        return {
            rank: RoleTime(
                time.seconds + beside_seconds[rank],
                time.alone_seconds + beside_seconds[rank],
                time.waiting_seconds + most - beside_seconds[rank],
            )
            for rank, time in self.times.items()
        }

    @property
    def seconds(self) -> float:
        """When the last role is done."""
        return max(time.seconds for time in self.times.values())

    @cached_property
    def _prices(self) -> dict[int, tuple[Times, Times, int]]:
        """Role -> picoseconds of its launches by entry, of its calls by row, and of a dispatch."""
        out: dict[int, tuple[Times, Times, int]] = {}
        for rank, recording in self._recordings.items():
            calls = [row["seconds"] for row in recording.communication.rows]
            if self._call_seconds is not None:
                calls = list(self._call_seconds[rank])
            out[rank] = (
                [_picoseconds(launch.seconds) for launch in recording.costed],
                [_picoseconds(seconds) for seconds in calls],
                _picoseconds(recording.dispatch_seconds),
            )
        return out

    def _run(self, partners: Mapping[Call, Sequence[Call]]) -> dict[int, _Role]:
        """The roles, at their ends."""
        flights: dict[int, dict[int, _Flight]] = {}
        for rank, calls in self._meetings.calls.items():
            durations = self._prices[rank][1]
            flights[rank] = {
                call.name: _Flight(0, False)
                if call.row is None
                else _Flight(durations[call.row], follows=not call.is_message)
                for call in calls
            }
        for (rank, name), others in partners.items():
            flights[rank][name].partners = [flights[role][other] for role, other in others]
        roles = {
            rank: _Role(recording.ledger.data["clock"], launches, dispatch, flights[rank])
            for rank, recording in self._recordings.items()
            for launches, _, dispatch in [self._prices[rank]]
        }
        going = {rank: role.run() for rank, role in roles.items()}
        stuck_in: dict[int, _Moment] = {}
        while going:
            moved = False
            for rank, steps in list(going.items()):
                if rank in stuck_in and stuck_in[rank].end is None:
                    continue
                moved = True
                waits_for = next(steps, None)
                if waits_for is None:
                    del going[rank]
                else:
                    stuck_in[rank] = waits_for
            if not moved:
                raise RuntimeError(self._deadlock(flights, {rank: stuck_in[rank] for rank in going}))
        return roles

    def _deadlock(self, flights: Mapping[int, Mapping[int, _Flight]], stuck_in: Mapping[int, _Moment]) -> str:
        where = []
        for rank, moment in stuck_in.items():
            while isinstance(moment, _Mark) or any(before.end is None for before in moment.after):
                moment = next(before for before in moment.after if before.end is None)
            call = next(call for call in self._meetings.calls[rank] if flights[rank][call.name] is moment)
            where.append(f"role {rank} in {call.text(self._recordings[rank])}")
        return f"[job clock] roles must not wait for each other in a circle; got {', '.join(where)}."


class _Flight:
    """A call under way. Its end is known when all that take part have arrived and what it follows has ended."""

    __slots__ = ("_end", "after", "arrival", "follows", "partners", "ready", "seconds")

    def __init__(self, seconds: int, follows: bool) -> None:
        self.seconds = seconds
        self.follows = follows  # what its stream did before; messages pass each other
        self.arrival: int | None = None
        self.ready: int | None = None if follows else 0  # when its stream is free, but for `after`
        self.after: list[_Moment] = []
        self.partners: list[_Flight] = []
        self._end: int | None = None

    @property
    def end(self) -> int | None:
        if self._end is None and self.arrival is not None and self.ready is not None:
            begin = max(self.arrival, self.ready)
            for moment in self.after:
                if moment.end is None:
                    return None
                begin = max(begin, moment.end)
            for flight in self.partners:
                if flight.arrival is None:
                    return None
                begin = max(begin, flight.arrival)
            self._end = begin + self.seconds
        return self._end


class _Mark:
    """A point of a stream: known when all that the stream waits for there has ended."""

    __slots__ = ("_end", "after", "ready")

    def __init__(self, ready: int, after: list[_Moment]) -> None:
        self.ready = ready
        self.after = after
        self._end: int | None = None

    @property
    def end(self) -> int | None:
        if self._end is None:
            ends = [moment.end for moment in self.after]
            if None not in ends:
                self._end = max([self.ready, *(end for end in ends if end is not None)])
        return self._end


_Moment = _Flight | _Mark


class _Stream:
    __slots__ = ("ready", "waits")

    def __init__(self) -> None:
        self.ready = 0
        self.waits: list[_Moment] = []  # whose ends are not known yet

    def wait(self, moment: _Moment) -> None:
        if moment.end is None:
            self.waits.append(moment)
        else:
            self.ready = max(self.ready, moment.end)

    def catch_up(self) -> None:
        """What has ended meanwhile is waited for no more."""
        waits, self.waits = self.waits, []
        for moment in waits:
            self.wait(moment)


class _Role:
    """The clock of one role: csrc/runtime/clock.h, where what a stream waits for may have to come first."""

    def __init__(
        self,
        steps: Sequence[Sequence[Any]],
        launches: Times,
        dispatch: int,
        flights: Mapping[int, _Flight],
    ) -> None:
        self._steps = steps
        self._launches = launches
        self._dispatch = dispatch
        self.flights = flights
        self.stretches: list[tuple[int, int, int, int, Sequence[Sequence[int]]]] = []
        self._marks: dict[int, _Mark] = {}
        self._hosts: dict[int, int] = defaultdict(int)
        self._streams: dict[int, dict[int, _Stream]] = defaultdict(lambda: defaultdict(_Stream))
        self.end = 0

    def run(self) -> Iterator[_Moment]:
        """Yields what it waits for, and goes on when that has an end."""
        for kind, device, number, *rest in self._steps:
            stream, host = self._streams[device][number], self._hosts[device]
            if kind == "new_stream":
                stream.ready, stream.waits = host, []
            elif kind == "finish":
                flight = self.flights[rest[0]]
                if flight.follows:
                    stream.catch_up()
                    flight.ready, flight.after = stream.ready, list(stream.waits)
            elif kind == "mark":
                stream.catch_up()
                self._marks[rest[0]] = _Mark(max(stream.ready, host), list(stream.waits))
            elif kind == "wait":
                stream.wait(self._moment(rest[0]))
            elif kind == "host_wait":
                moment = self._moment(rest[0])
                while moment.end is None:
                    yield moment
                self._hosts[device] = max(host, moment.end)
            elif kind == "synchronize":
                for each in self._streams[device].values():
                    yield from self._settled(each)
                    self._hosts[device] = max(self._hosts[device], each.ready)
            else:
                yield from self._settled(stream)
                here = max(stream.ready, host)
                if kind == "launches":
                    for entry, count in rest[0]:
                        here += count * self._launches[entry]
                        self._hosts[device] += count * self._dispatch
                    self.stretches.append((device, number, max(stream.ready, host), here, rest[0]))
                    stream.ready = here
                elif kind == "sleep":
                    stream.ready = here + _picoseconds(rest[0])
                elif kind == "stream_wait":
                    self._hosts[device] = here
                elif kind == "issue":
                    self.flights[rest[0]].arrival = here
        for streams in self._streams.values():
            for each in streams.values():
                yield from self._settled(each)
                self.end = max(self.end, each.ready)
        self.end = max([self.end, *self._hosts.values()])

    def _moment(self, name: int) -> _Moment:
        return self.flights[name] if name in self.flights else self._marks[name]

    def _settled(self, stream: _Stream) -> Iterator[_Moment]:
        for moment in stream.waits:
            while moment.end is None:
                yield moment
        stream.catch_up()
