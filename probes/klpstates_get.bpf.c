// SPDX-License-Identifier: Apache-2.0
/*
 * klpstates_get.bpf.c - Trace klp_get_state and klp_get_prev_state; a part of klpstates.bpf.c.
 */
struct get_t {
	struct klp_patch *patch;
	u64 id;
	u64 ts_ns;
};

struct get_key_t {
	u64 task;
	u64 call; /* CALL_*: klp_get_prev_state may call klp_get_state */
};

BPF_HASH(gets, struct get_key_t, struct get_t); /* calls under way */

static __always_inline int enter_get(u64 call, struct klp_patch *patch, u64 id)
{
	struct get_key_t key = { .task = bpf_get_current_task(), .call = call };
	struct get_t get = { .patch = patch, .id = id, .ts_ns = bpf_ktime_get_ns() };

	if (gets.lookup(&key))
		lost.atomic_increment(0); /* the end of the one before */
	if (gets.update(&key, &get))
		lost.atomic_increment(0);
	return 0;
}

static __always_inline int leave_get(struct pt_regs *ctx, u64 call)
{
	struct get_key_t key = { .task = bpf_get_current_task(), .call = call };
	void *state = (void *)PT_REGS_RC(ctx);
	struct get_t *get = gets.lookup(&key);
	struct event_t *event;

	if (!get) {
		lost.atomic_increment(0); /* its beginning */
		return 0;
	}
	event = new_event(EVENT_STATE_GET, get->ts_ns);
	if (!event)
		return 0;
	event->detail = call;
	event->caller = PT_REGS_IP(ctx); /* in a return probe, the caller's */
	event->id = get->id;
	if (get->patch)
		read_name(event->name, get->patch);
	if (state && !READ(event->version, state, KLP_STATE_VERSION))
		event->yes = !READ(event->id, state, KLP_STATE_ID);
	submit(event, SHORT_EVENT);
	gets.delete(&key);
	return 0;
}

int on_get(struct pt_regs *ctx, struct klp_patch *patch, unsigned long id)
{
	return enter_get(CALL_GET, patch, id);
}

int on_get_return(struct pt_regs *ctx)
{
	return leave_get(ctx, CALL_GET);
}

int on_get_prev(struct pt_regs *ctx, unsigned long id)
{
	return enter_get(CALL_GET_PREV, NULL, id);
}

int on_get_prev_return(struct pt_regs *ctx)
{
	return leave_get(ctx, CALL_GET_PREV);
}
