# SPDX-License-Identifier: Apache-2.0
"""A real guest over real SSH: commands, files, livepatch control, a stuck transition."""

from __future__ import annotations

import dataclasses
import re

import pytest

from klp.drive.subject import LivepatchSubject, ModuleSubject
from klp.errors import CheckFailed, GuestSilent, TransitionStuck
from klp.guest.clock import Clock
from klp.guest.kernel_log import lines_after, write_canary
from klp.guest.ssh import Guest
from klp.klog.lines import without_stamp
from klp.lab.lab import connection_limits

pytestmark = pytest.mark.vm("6.12")
DEADLINE_S = 90
# The log is stamped by local_clock(), which is not ktime_get() and may be some milliseconds off.
SCHED_CLOCK_NS = 100_000_000


@pytest.fixture
def shipped(lab, samples):
    """Put modules into the guest; returns a function from module name to path there."""
    lab.guest.run(["mkdir", "-p", "/root/modules"]).must("mkdir")

    def ship(name: str) -> str:
        path = f"/root/modules/{name}.ko"
        lab.guest.put(samples[name].file, path)
        return path

    return ship


def nothing_stuck(tasks):
    raise AssertionError(f"stuck: {tasks}")


class TestCommands:
    def test_streams_and_status(self, lab):
        result = lab.guest.run("echo out; echo err >&2; exit 3")
        assert (result.status, result.stdout, result.stderr) == (3, "out\n", "err\n")

    def test_words_are_quoted(self, lab):
        assert lab.guest.run(["printf", "%s", "a b; $HOME 'q'"]).stdout == "a b; $HOME 'q'"

    def test_input_is_read_to_its_end(self, lab):
        data = bytes(range(256)) * 4096
        result = lab.guest.run("sha256sum", stdin=data)
        import hashlib

        assert result.stdout.split()[0] == hashlib.sha256(data).hexdigest()

    def test_long_output_comes_whole(self, lab):
        assert lab.guest.run("seq 200000").stdout == "".join(f"{n}\n" for n in range(1, 200001))

    def test_command_without_end_misses_its_deadline(self, lab):
        with pytest.raises(GuestSilent, match="sleep 600"):
            lab.guest.run("sleep 600", timeout_s=1)
        assert lab.guest.run("echo on").stdout == "on\n"

    def test_input_that_nobody_reads_misses_its_deadline(self, lab):
        with pytest.raises(GuestSilent, match=r"^no end of `sleep 600` within 1 s"):
            lab.guest.run("sleep 600", stdin=bytes(8 << 20), timeout_s=1)
        assert lab.guest.run("echo on").stdout == "on\n"

    def test_a_killed_command_is_not_a_broken_connection(self, lab):
        assert lab.guest.run("echo out; kill -KILL $$").status == 128
        assert lab.guest.run("echo on").stdout == "on\n"

    def test_failure_names_command_and_reason(self, lab):
        with pytest.raises(CheckFailed, match=r"reading: .*No such file"):
            lab.guest.run("cat /nonesuch").must("reading")


class TestClock:
    def test_a_command_is_timed_by_the_probes_clock(self, lab):
        """The kernel's own stamps of what the command wrote to its log lie within the span."""
        clock = Clock(lab.guest)
        script = "for each in 1 2; do echo klp: timed >/dev/kmsg; read -rt 0.3 <>/run/klp/silence; done"
        result, span = clock.run(f"{script}; echo out; echo err >&2; (exit 3)")
        assert (result.status, result.stdout, result.stderr) == (3, "out\n", "err\n")
        stamps = re.findall(r"\[ *([\d.]+)\] klp: timed", lab.guest.run("dmesg | tail -n 5").stdout)
        first, last = (round(float(each) * 1e9) for each in stamps)
        assert span.begun_ns - SCHED_CLOCK_NS < first < last < span.ended_ns + SCHED_CLOCK_NS
        assert span.ended_ns < clock.now_ns() + SCHED_CLOCK_NS

    def test_a_command_without_end_is_told_as_it_was_given(self, lab, monkeypatch):
        clock = Clock(lab.guest)
        monkeypatch.setattr(lab.guest, "limits", dataclasses.replace(lab.guest.limits, command=1))
        with pytest.raises(GuestSilent, match=r"^no end of `sleep 600` within 1 s"):
            clock.run(["sleep", "600"])


class TestFiles:
    def test_both_ways(self, lab, tmp_path):
        source, back = tmp_path / "a", tmp_path / "b"
        source.write_bytes(bytes(range(256)) * 1000)
        source.chmod(0o755)
        lab.guest.put(source, "/root/a")
        assert lab.guest.run("stat -c %a /root/a").stdout == "755\n"
        lab.guest.get("/root/a", back)
        assert back.read_bytes() == source.read_bytes()

    def test_a_file_that_is_not_there_leaves_what_was(self, lab, tmp_path):
        old = tmp_path / "old"
        old.write_text("kept")
        with pytest.raises(CheckFailed, match="nonesuch"):
            lab.guest.get("/nonesuch", old)
        assert [each.name for each in tmp_path.iterdir()] == ["old"]
        assert old.read_text() == "kept"

    def test_no_such_folder(self, lab, tmp_path):
        source = tmp_path / "a"
        source.write_text("x")
        with pytest.raises(CheckFailed, match="/nonesuch/a"):
            lab.guest.put(source, "/nonesuch/a")


class TestIdentity:
    def test_another_host_key_is_refused(self, lab, accelerator, tmp_path):
        from klp.images.keys import ensure_key

        other = ensure_key(tmp_path / "other")
        address = dataclasses.replace(lab.guest.address, host_key=other)
        with pytest.raises(GuestSilent, match="opening SSH"):
            Guest(address, connection_limits(accelerator), lab.machine.check_alive)

    def test_another_client_key_is_refused(self, lab, accelerator, tmp_path):
        from klp.images.keys import ensure_key

        ensure_key(tmp_path / "other")
        address = dataclasses.replace(lab.guest.address, key=tmp_path / "other")
        with pytest.raises(GuestSilent, match="opening SSH"):
            Guest(address, connection_limits(accelerator), lab.machine.check_alive)

    def test_guest_cannot_reach_the_hosts_network(self, lab):
        """10.0.2.2 is the host in QEMU's user network; restrict=on drops what is sent there."""
        probe = "ip route add default via 10.0.2.2; timeout 3 bash -c 'echo >/dev/tcp/10.0.2.2/%d'"
        result = lab.guest.run(probe % lab.guest.address.port)
        assert result.status != 0


@pytest.fixture
def subject(lab, samples, shipped):
    """A sample in the guest, as a test handles it; what holds its transition is kept in `stuck`."""

    def one(name, stuck=None):
        path = shipped(name)
        if not samples[name].livepatch:
            return ModuleSubject(lab, samples[name], path)
        keep = nothing_stuck if stuck is None else stuck.extend
        return LivepatchSubject(lab, samples[name], path, deadline_s=DEADLINE_S, stuck=keep)

    return one


class TestLivepatches:
    def test_life_of_a_livepatch(self, lab, subject):
        sample = subject("livepatch_sample")
        sample.load()
        assert (sample.state.enabled, sample.state.transition) == (True, False)
        assert [(each.name, each.functions) for each in sample.state.objects] == [
            ("vmlinux", ("cmdline_proc_show,1",))
        ]
        assert "live patched" in lab.guest.read("/proc/cmdline")
        with pytest.raises(CheckFailed, match="in use"):
            sample.unload()
        with pytest.raises(CheckFailed, match="nothing to reverse"):
            sample.reverse()
        sample.disable()
        sample.unload()
        assert lab.livepatches.list() == ()
        assert "live patched" not in lab.guest.read("/proc/cmdline")

    def test_stuck_transition_names_its_task_then_reverses(self, subject):
        kept = []
        busy, demo = subject("livepatch_callbacks_busymod"), subject("livepatch_callbacks_demo", kept)
        busy.load("sleep_secs=20")
        demo.load(wait=False)
        with pytest.raises(TransitionStuck) as caught:
            demo.wait(deadline_s=3)
        [task] = [each for each in kept if "busymod_work_func" in " ".join(each.stack)]
        assert task.comm.startswith("kworker/")
        assert task.patch_state == 0
        assert task.line() in caught.value.pending
        # It is still what it was: watched, and neither forced nor torn down.
        assert demo.in_transition
        demo.reverse()
        demo.wait()
        demo.wait_gone()
        demo.unload()
        busy.unload()

    def test_a_slow_transition_is_told_before_it_is_stuck(self, lab, subject):
        told = []
        busy, demo = subject("livepatch_callbacks_busymod"), subject("livepatch_callbacks_demo")
        busy.load("sleep_secs=20")
        demo.load(wait=False)
        with pytest.raises(TransitionStuck):
            lab.livepatches.wait_transition(demo.name, deadline_s=5, stuck=list, slow=told.append)
        assert any("busymod_work_func" in frame for tasks in told for task in tasks for frame in task.stack)
        demo.reverse()
        demo.wait()
        demo.wait_gone()
        demo.unload()
        busy.unload()

    def test_a_refused_module_is_told_in_the_kernels_words(self, subject):
        with pytest.raises(CheckFailed, match=r"ENODEV .*No such device"):
            subject("livepatch_callbacks_demo").load("pre_patch_ret=-19")

    def test_force_switches_a_sleeper_and_pins_the_module(self, subject):
        """Last of its class: the livepatch stays for good."""
        subject("livepatch_callbacks_busymod").load("sleep_secs=20")
        demo = subject("livepatch_callbacks_demo")
        demo.load(wait=False)
        demo.force()
        demo.disable(wait=False)
        demo.wait()


class TestKernelLog:
    def test_lines_after_the_canary(self, lab):
        first = write_canary(lab.guest, "first")
        lab.guest.run("echo between >/dev/kmsg").must("kmsg")
        second = write_canary(lab.guest, "second")
        between = [without_stamp(line) for line in lines_after(lab.guest, first)]
        assert between == ["between", second.token]
        assert lines_after(lab.guest, second) == ()

    def test_a_lost_canary_is_an_overflow(self, lab):
        canary = write_canary(lab.guest, "lost")
        lab.guest.run("dmesg --clear").must("clearing")
        with pytest.raises(CheckFailed, match="overflowed"):
            lines_after(lab.guest, canary)
