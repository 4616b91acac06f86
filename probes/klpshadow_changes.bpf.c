// SPDX-License-Identifier: Apache-2.0
/*
 * klpshadow_changes.bpf.c - Count variables being made and freed; a part of klpshadow.bpf.c.
 *
 * Whether a variable was there when klp_shadow_get returned is only known if none was being made or
 * freed meanwhile. So each change is counted where it begins and where it ends, in a slot for its
 * object and id: a get that finds both numbers equal at its entry, and the first unchanged at its
 * return, ran with no change beside it.
 */
#define SLOTS 4096 /* slot_of() makes 12 bits */

struct slot_t {
	u64 begun;
	u64 ended;
};

BPF_ARRAY(slots, struct slot_t, SLOTS);

static __always_inline struct slot_t *slot_of(struct variable_t *of)
{
	u64 mixed = (of->obj ^ of->id << 32) * 0x61c8864680b583ebULL; /* as hash_64() */
	int index = mixed >> 52;

	return slots.lookup(&index);
}

/* Return how many had begun before. One that begins meanwhile is not among them. */
static __always_inline u64 change_begins(struct variable_t *of)
{
	struct slot_t *slot = slot_of(of);
	u64 before = 0;

	if (slot) {
		before = *(volatile u64 *)&slot->begun;
		__sync_fetch_and_add(&slot->begun, 1);
	}
	return before;
}

static __always_inline void change_ends(struct variable_t *of)
{
	struct slot_t *slot = slot_of(of);

	if (slot)
		__sync_fetch_and_add(&slot->ended, 1);
}
