# SPDX-License-Identifier: Apache-2.0
"""Inventories: read from recorded texts of guests, compared, and what differs put into words."""

from __future__ import annotations

import msgspec
import pytest

from klp.analysis.inventory import (
    Alteration,
    Inventory,
    Variation,
    confirmed,
    differences,
    in_words,
    lasting,
    learned,
    put_back,
    unexplained,
)

UID = "/proc/sys/kernel/overflowuid"


def inventory(**sections: dict[str, str]) -> Inventory:
    return Inventory({name.replace("_", " "): keys for name, keys in sections.items()})


def words(before: Inventory, after: Inventory) -> tuple[str, ...]:
    return in_words(differences(before, after))


def names(*paths: str) -> Inventory:
    return inventory(names=dict.fromkeys(paths, ""))


def test_a_value_that_was_not_put_back_is_told_with_both() -> None:
    before, after = inventory(sysctl={UID: "65534"}), inventory(sysctl={UID: "1234"})
    assert words(before, after) == (f"left changed: {UID} is '1234', was '65534'",)


def test_nothing_differs_from_itself() -> None:
    one = inventory(sysctl={UID: "65534"}, kthreads={"kswapd0": "1"}, names={"/proc/version": ""})
    assert differences(one, one) == ()


def test_a_setting_that_came_is_told_once_among_the_names() -> None:
    before = Inventory({"sysctl": {}, "names": {}})
    after = Inventory({"sysctl": {"/proc/sys/kernel/x": "7"}, "names": {"/proc/sys/kernel/x": ""}})
    assert words(before, after) == ("left behind: /proc/sys/kernel/x",)


def test_names_below_one_another_are_one_line_and_those_alike_as_well() -> None:
    device = "/sys/devices/virtual/net/klp0"
    came = (device, f"{device}/mtu", f"{device}/queues", f"{device}/queues/tx-0", "/sys/class/net/klp0")
    assert words(names("/sys/devices/virtual/net"), names("/sys/devices/virtual/net", *came)) == (
        f"left behind: {device} and 3 names below it (also in /sys/class/net)",
    )


def test_a_name_that_only_begins_like_another_is_not_below_it() -> None:
    assert words(names(), names("/proc/klp", "/proc/klp-more", "/proc/klp/x")) == (
        "left behind: /proc/klp and 1 name below it",
        "left behind: /proc/klp-more",
    )


def test_more_places_of_a_name_than_fit_are_counted() -> None:
    came = [f"/proc/{place}/klp0" for place in "abcde"]
    [line] = words(names(), names(*came))
    assert line == "left behind: /proc/a/klp0 (also in /proc/b, /proc/c, /proc/d and 1 more)"


def test_a_slab_cache_and_a_name_that_is_gone_are_called_so() -> None:
    assert words(names("/dev/klp"), names("/sys/kernel/slab/klp_objects")) == (
        "left behind: slab cache klp_objects",
        "gone: /dev/klp",
    )


@pytest.mark.parametrize(
    ("section", "key", "was", "now", "told"),
    [
        ("kthreads", "klp_x", None, "1", "left behind: kthread klp_x"),
        ("kthreads", "klp_x", "1", "3", "left behind: kthread klp_x (2 of them)"),
        ("kthreads", "klp_x", "1", None, "gone: kthread klp_x"),
        ("timers", "fn [klp_x]", None, "1", "left behind: timer of fn [klp_x]"),
        ("works", "fn [klp_x]", None, "1", "left behind: work item of fn [klp_x]"),
        ("notifiers", "fn [klp_x] in die_chain", None, "1",
         "left behind: notifier fn [klp_x] in die_chain"),
        ("vmalloc", "f [klp_x]", None, "1", "one more vmalloc area of f [klp_x]"),
        ("vmalloc", "f [klp_x]", "5", "2", "3 fewer vmalloc areas of f [klp_x]"),
        ("open files", "init", "3", "5", "2 more open files of init"),
        ("modules", "ext4", "2", "3", "left changed: the reference count of module ext4 is 3, was 2"),
        ("modules", "klp_x", None, "0", "left behind: module klp_x"),
        ("mounts", "/mnt", None, "tmpfs none rw", "left behind: mount /mnt"),
        ("registered misc", "60 klp", None, "1", "left behind: 60 klp in /proc/misc"),
        ("links", "/sys/class/net/lo/mtu", "65536", "1500",
         "left changed: /sys/class/net/lo/mtu is '1500', was '65536'"),
    ],
)  # fmt: skip
def test_each_kind_has_words(section: str, key: str, was: str | None, now: str | None, told: str) -> None:
    before = Inventory({section: {key: was} if was else {}})
    after = Inventory({section: {key: now} if now else {}})
    assert words(before, after) == (told,)


def test_the_timer_of_a_module_that_was_there_before_is_its_own_affair() -> None:
    before = Inventory({"timers": {}}, modules={"jbd2": (1, 2)})
    after = Inventory({"timers": {"commit_timeout [jbd2]": "1", "fn [klp_x]": "1"}})
    assert words(before, after) == ("left behind: timer of fn [klp_x]",)


def test_a_timer_that_has_gone_off_is_nothing_left() -> None:
    before, after = inventory(timers={"0xffffffffc0000010": "1"}), inventory(timers={})
    assert differences(before, after) == ()


def test_what_a_control_life_showed_is_no_alarm_whatever_its_number_is() -> None:
    variation = learned(names(), names("/sys/kernel/irq/24/name"))
    later = differences(names(), names("/sys/kernel/irq/31/name", "/proc/klp"))
    assert [each.key for each in unexplained(later, variation)] == ["/proc/klp"]


def test_what_varies_in_one_section_does_not_in_another() -> None:
    variation = learned(inventory(kthreads={}), inventory(kthreads={"x1": "1"}))
    assert unexplained(differences(names(), names("x1")), variation)


def test_variations_of_several_lives_add_up_and_are_kept_as_json() -> None:
    one = learned(names(), names("/a1"))
    both = one | learned(names(), names("/b"))
    kept = msgspec.json.decode(msgspec.json.encode(both), type=Variation)
    assert kept == both
    assert unexplained(differences(names(), names("/a2", "/b")), kept) == ()


def test_a_livepatch_below_that_was_replaced_is_no_loss() -> None:
    below = "/sys/kernel/livepatch/klp_state"
    before = inventory(
        names={below: "", f"{below}/enabled": ""},
        modules={"klp_state": "1", "ext4": "2"},
        ftrace={"f": "(1) R I", "g": "(2) R I", "h": "(1) R"},
    )
    after = inventory(
        names={}, modules={"klp_state": "0", "ext4": "3"}, ftrace={"g": "(1) R I", "h": "(2) R"}
    )
    found = [(each.section, each.key) for each in differences(before, after)]
    assert found == [("modules", "ext4"), ("ftrace", "h")]


def test_what_is_as_it_was_at_first_was_put_back() -> None:
    first = inventory(sysctl={UID: "65534"}, names={"/a": ""})
    found = (Alteration("sysctl", UID, "1234", "65534"), Alteration("names", "/b", "", None))
    assert put_back(found, first) == ()
    other = (Alteration("sysctl", UID, "1234", "7"), Alteration("names", "/b", None, ""))
    assert put_back(other, first) == other


def test_that_something_left_goes_after_all_is_no_variation() -> None:
    first, left = inventory(kthreads={"a": "1"}), inventory(kthreads={"a": "1", "klp_x": "1"})
    assert learned(left, first, first) == Variation()
    assert learned(left, inventory(kthreads={"a": "2"}), first).patterns == {"kthreads a"}


def test_what_a_second_look_must_confirm() -> None:
    left = (Alteration("kthreads", "x", None, "1"), Alteration("timers", "f [klp_x]", None, "1"))
    assert confirmed(left, ()) == left[1:]
    assert confirmed(left, left[:1]) == left


def test_a_section_that_was_not_read_once_is_not_compared() -> None:
    assert differences(names("/a"), inventory(kthreads={"x": "1"})) == ()


def test_only_what_is_there_at_every_look_lasts() -> None:
    first = (Alteration("names", "/a", None, ""), Alteration("kthreads", "x", "1", "2"))
    second = (Alteration("kthreads", "x", "1", "3"), Alteration("names", "/b", None, ""))
    assert lasting(first, second) == (second[0],)
