# SPDX-License-Identifier: Apache-2.0
"""Traces in Perfetto's own format, for ui.perfetto.dev and for its trace processor's SQL.

Times are nanoseconds of the guest's CLOCK_MONOTONIC, as in events.jsonl. Each guest is a group of tracks:
plans, transitions, passes, callbacks, a counter of the tasks left, a track for each task, and one for each
shadow variable, which Perfetto shows merged by id, as it does asynchronous slices.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb

from klp.analysis.history import History
from klp.analysis.legs import Leg, TaskSwitch, Who, identity
from klp.analysis.recording import GuestTrace, Recorded, RecordedCheck, TracedLeg
from klp.trace import events as ev

# What a number of an argument can hold, signed and unsigned.
_LARGEST, _LARGEST_UNSIGNED = 2**63 - 1, 2**64 - 1
Arguments = Mapping[str, str | int | bool]
# Perfetto refuses track events that belong to no sequence of packets; one is enough for all.
_SEQUENCE = 1
# The order at one moment, for Perfetto nests slices by the order of their packets: what ends does so before
# anything begins, and what lasts longer begins first.
_END, _POINT, _BEGIN = range(3)
# What stands before each packet until all are sorted: its time, the above, how long it lasts, its number.
_ORDER = struct.Struct(">QBQQ")
_LATEST = 2**64 - 1


@dataclass(slots=True)
class _Trace:
    """Packets that grow, as they will be written: there may be millions."""

    tracks: list[bytes] = field(default_factory=list)
    events: list[bytes] = field(default_factory=list)

    def track(self, name: str, parent: int | None = None, *, counter: bool = False) -> int:
        """Add a track; return its id."""
        packet = pb.TracePacket()
        described = packet.track_descriptor
        described.uuid = len(self.tracks) + 1
        described.name = name
        if parent is not None:
            described.parent_uuid = parent
        if counter:
            described.counter.unit_name = "tasks"
        self.tracks.append(_written(packet))
        return int(described.uuid)

    def slice(
        self, track: int, name: str, begun_ns: int, ended_ns: int, arguments: Arguments | None = None
    ) -> None:
        """Add what lasted; it lasts 1 ns at least, so that it does not end before it begins."""
        last = max(ended_ns, begun_ns + 1)
        begin = _event(track, pb.TrackEvent.TYPE_SLICE_BEGIN, begun_ns)
        _tell(begin, name, arguments)
        self._add(begin, _BEGIN, _LATEST - last)
        self._add(_event(track, pb.TrackEvent.TYPE_SLICE_END, last), _END, _LATEST - begun_ns)

    def point(self, track: int, name: str, ts_ns: int, arguments: Arguments | None = None) -> None:
        """Add a moment."""
        packet = _event(track, pb.TrackEvent.TYPE_INSTANT, ts_ns)
        _tell(packet, name, arguments)
        self._add(packet, _POINT)

    def count(self, track: int, ts_ns: int, value: int) -> None:
        """Add a counter's value from a moment on."""
        packet = _event(track, pb.TrackEvent.TYPE_COUNTER, ts_ns)
        packet.track_event.counter_value = value
        self._add(packet, _POINT)

    def _add(self, packet: pb.TracePacket, kind: int, lasting: int = 0) -> None:
        before = _ORDER.pack(packet.timestamp, kind, lasting, len(self.events))
        self.events.append(before + _written(packet))

    def encoded(self) -> bytes:
        """Return the whole as Perfetto reads it: tracks first, then events in the order of time."""
        self.events.sort()
        return b"".join([*self.tracks, *(each[_ORDER.size :] for each in self.events)])


def _event(track: int, kind: pb.TrackEvent.Type, ts_ns: int) -> pb.TracePacket:
    packet = pb.TracePacket(timestamp=ts_ns, trusted_packet_sequence_id=_SEQUENCE)
    packet.track_event.type = kind
    packet.track_event.track_uuid = track
    return packet


def _written(packet: pb.TracePacket) -> bytes:
    # Traces one after the other are one trace of all their packets.
    return bytes(pb.Trace(packet=[packet]).SerializeToString())


def _tell(packet: pb.TracePacket, name: str, arguments: Arguments | None) -> None:
    packet.track_event.name = name
    for key, value in (arguments or {}).items():
        note = packet.track_event.debug_annotations.add(name=key)
        if isinstance(value, bool):
            note.bool_value = value
        elif isinstance(value, int) and -_LARGEST <= value <= _LARGEST:
            note.int_value = value
        elif isinstance(value, int) and 0 <= value <= _LARGEST_UNSIGNED:
            note.uint_value = value
        else:
            note.string_value = str(value)


def perfetto_trace(shown: Iterable[Recorded]) -> bytes:
    """Return a trace of every guest of runs and checks, to be written as a .pftrace file."""
    trace = _Trace()
    for guest in _guests(shown):
        root = trace.track(guest.title)
        _plans(trace, root, guest.history)
        _transitions(trace, root, guest.legs)
        _callbacks(trace, root, guest.history)
        _tasks(trace, root, guest)
        _shadows(trace, root, guest)
    return trace.encoded()


def _guests(shown: Iterable[Recorded]) -> Iterator[GuestTrace]:
    for each in shown:
        for run in each.runs.values() if isinstance(each, RecordedCheck) else (each,):
            yield from run.guests


def _plans(trace: _Trace, root: int, history: History) -> None:
    track = trace.track("plans", root)
    begun: dict[str, int] = {}
    for _, each in history.seen.plans:
        if each.moment == "begin":
            begun[each.name] = each.ts_ns
        elif each.name in begun:
            trace.slice(track, each.name, begun.pop(each.name), each.ts_ns)


def _transitions(trace: _Trace, root: int, legs: Sequence[TracedLeg]) -> None:
    track = trace.track("transitions", root)
    passes = trace.track("passes", root)
    left = trace.track("tasks left", root, counter=True)
    for traced in legs:
        leg = traced.leg
        end = leg.last_ns if leg.ended_ns is None else leg.ended_ns
        arguments: Arguments = {"livepatch": leg.patch, "target": leg.target, "outcome": leg.outcome.value}
        trace.slice(track, leg.told(), leg.begun_ns, end, arguments)
        for _, each in leg.passes:
            found: Arguments = {
                "attempts": each.attempts,
                "left": each.left,
                "complete": each.complete,
                "scheduler_refused": each.scheduler_refused,
            }
            trace.slice(passes, f"pass {each.number}", each.ts_ns, each.ts_ns + each.duration_ns, found)
        for _, signal in leg.signals:
            trace.point(passes, "signals sent", signal.ts_ns)
        for _, force in leg.forces:
            trace.point(passes, "forced", force.ts_ns)
        for ts_ns, value in traced.tasks_left:
            trace.count(left, ts_ns, value)


def _callbacks(trace: _Trace, root: int, history: History) -> None:
    track = trace.track("callbacks", root)
    for _, each in history.callbacks.calls:
        arguments: dict[str, str | int | bool] = {"livepatch": each.patch, "function": each.function}
        if each.result is not None:
            arguments["result"] = each.result
        name = f"{each.kind} of {each.object}"
        trace.slice(track, name, each.ts_ns, each.ts_ns + each.duration_ns, arguments)


def _tasks(trace: _Trace, root: int, guest: GuestTrace) -> None:
    group = trace.track("tasks", root)
    tracks: dict[Who, int] = {}
    attempts: dict[Who, list[ev.Attempt]] = {}
    for attempt in guest.attempts:
        attempts.setdefault(identity(attempt.task), []).append(attempt)
    for leg in guest.history.legs:
        for each in leg.tasks:
            who = (each.pid, each.comm if each.pid == 0 else "")
            if who not in tracks:
                tracks[who] = trace.track(f"{each.comm} [{each.pid}]", group)
            _wait(trace, tracks[who], leg, each, attempts.get(who, ()))
    for who, tried in attempts.items():
        if who in tracks:
            _attempts(trace, tracks[who], tried)


def _attempts(trace: _Trace, track: int, tried: Sequence[ev.Attempt]) -> None:
    for each in tried:
        arguments: Arguments = {"errno": each.errno, "function": each.function or "", "after": each.after}
        trace.slice(track, f"attempt: {each.result}", each.ts_ns, each.ts_ns + each.duration_ns, arguments)


def _wait(trace: _Trace, track: int, leg: Leg, task: TaskSwitch, attempts: Sequence[ev.Attempt]) -> None:
    """Draw a task's wait, from the leg's start to the task's switch.

    An attempt that was under way at the switch returns a little later; the wait is drawn until then,
    for slices of one track must nest.
    """
    begun = leg.started[1].ts_ns if leg.started else leg.begun_ns
    path = task.path or "left pending"
    arguments: Arguments = {"path": path, "failed_attempts": task.attempts, "livepatch": leg.patch}
    if path == "fork":
        trace.point(track, "born switched", task.at_ns, arguments)
        return
    own = attempts[
        bisect_left(attempts, begun, key=_moment) : bisect_right(attempts, task.at_ns, key=_moment)
    ]
    tried = [each.ts_ns + each.duration_ns for each in own]
    trace.slice(
        track, f"{leg.direction}: {path}", min(begun, task.at_ns), max([task.at_ns, *tried]), arguments
    )


def _moment(attempt: ev.Attempt) -> int:
    return attempt.ts_ns


def _shadows(trace: _Trace, root: int, guest: GuestTrace) -> None:
    group = trace.track("shadow variables", root)
    # Siblings of one name are shown as one track on which slices may overlap. By id: from when on each is
    # free for another slice.
    free: dict[int, list[tuple[int, int]]] = {}
    for each in guest.lifetimes:
        begun = guest.history.first_ns if each.made_ns is None else each.made_ns
        end = guest.history.last_ns if each.freed_ns is None else each.freed_ns
        own = free.setdefault(each.id, [])
        if own and own[0][0] <= begun:
            _, track = heappop(own)
        else:
            track = trace.track(f"shadow id {each.id}", group)
        heappush(own, (max(end, begun + 1), track))
        arguments: Arguments = {
            "obj": each.obj,
            "id": each.id,
            "variable": each.variable,
            "size": each.size or 0,
            "caller": each.caller or "",
            "freed": each.freed_ns is not None,
        }
        trace.slice(track, f"<{each.obj}, {each.id}>", begun, end, arguments)
