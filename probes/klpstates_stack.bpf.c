// SPDX-License-Identifier: Apache-2.0
/*
 * klpstates_stack.bpf.c - Tell the stack of livepatches, with their states, and which are replaced; a
 * part of klpstates.bpf.c.
 */
static __always_inline void read_states(struct event_t *event, u32 slot, struct klp_patch *patch)
{
	void *state = NULL;
	u64 id = 0;

	READ(state, patch, KLP_PATCH_STATES);
	for (u32 i = 0; i < MAX_STATES; i++) {
		u32 at = slot * MAX_STATES + i;

		if (at >= SLOTS * MAX_STATES)
			return;
		event->ids[at] = 0;
		event->versions[at] = 0;
		if (!state || READ(id, state, KLP_STATE_ID) || !id)
			return;
		event->ids[at] = id;
		READ(event->versions[at], state, KLP_STATE_VERSION);
		state += SIZEOF_KLP_STATE;
	}
	READ(id, state, KLP_STATE_ID);
	event->cut |= !!id;
}

/* Fill the slots from 1 on. klp_mutex is held; if it were not, a torn list would only end early. */
static __always_inline void read_stack(struct event_t *event, bool with_states)
{
	u64 at = 0;

	READ(at, KLP_PATCHES, 0);
	event->patches = 1;
	for (u32 slot = 1; slot < SLOTS; slot++) {
		struct klp_patch *patch = (void *)at - KLP_PATCH_LIST;

		if (!at || at == KLP_PATCHES)
			return;
		read_name((char *)&event->names[slot * NAME_LEN], patch);
		if (with_states)
			read_states(event, slot, patch);
		event->patches = slot + 1;
		if (READ(at, at, 0))
			return;
	}
	event->cut |= at && at != KLP_PATCHES;
}

static __always_inline void submit_stack(u32 why)
{
	struct event_t *event = new_event(EVENT_PATCH_STACK, bpf_ktime_get_ns());

	if (!event)
		return;
	event->detail = why;
	read_stack(event, false);
	submit(event, sizeof(*event));
}

int on_complete(struct pt_regs *ctx)
{
	submit_stack(WHY_COMPLETE);
	return 0;
}

/* The core walks the list up to the new livepatch: all before it are replaced. */
int on_replace(struct pt_regs *ctx, struct klp_patch *by)
{
	u64 at = 0;

	READ(at, KLP_PATCHES, 0);
	for (u32 i = 0; i < MAX_PATCHES; i++) {
		struct klp_patch *patch = (void *)at - KLP_PATCH_LIST;
		struct event_t *event;

		if (!at || at == KLP_PATCHES || patch == by)
			return 0;
		event = new_event(EVENT_REPLACED, bpf_ktime_get_ns());
		if (!event)
			return 0;
		read_name(event->name, patch);
		read_name(event->other, by);
		submit(event, SHORT_EVENT);
		READ(at, at, 0);
	}
	return 0;
}
