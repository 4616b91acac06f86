// SPDX-License-Identifier: Apache-2.0
/*
 * klpstates_enable.bpf.c - Trace the check for compatible states, and klp_enable_patch; a part of
 * klpstates.bpf.c.
 */
struct enable_t {
	struct klp_patch *patch;
	u64 ts_ns;
	u32 replace;
	char name[NAME_LEN];
};

/* Calls under way, by task. */
BPF_HASH(enabling, u64, struct enable_t);
BPF_HASH(checking, u64, struct enable_t);

int on_check(struct pt_regs *ctx, struct klp_patch *patch)
{
	u64 self = bpf_get_current_task();
	struct enable_t check = { .patch = patch, .ts_ns = bpf_ktime_get_ns() };

	if (checking.lookup(&self))
		lost.atomic_increment(0); /* the end of the one before */
	if (checking.update(&self, &check))
		lost.atomic_increment(0);
	return 0;
}

int on_check_return(struct pt_regs *ctx)
{
	u64 self = bpf_get_current_task();
	struct enable_t *check = checking.lookup(&self);
	struct event_t *event;

	if (!check) {
		lost.atomic_increment(0); /* its beginning */
		return 0;
	}
	event = new_event(EVENT_COMPATIBLE, check->ts_ns);
	if (!event)
		return 0;
	event->yes = PT_REGS_RC(ctx) & 1;
	event->detail = read_flag(check->patch, KLP_PATCH_REPLACE);
	read_name(event->name, check->patch);
	/* klp_mutex is held from before the call: the states are still those that were compared. */
	read_states(event, 0, check->patch);
	read_stack(event, true);
	submit(event, sizeof(*event));
	checking.delete(&self);
	return 0;
}

int on_enable(struct pt_regs *ctx, struct klp_patch *patch)
{
	u64 self = bpf_get_current_task();
	struct enable_t enable = { .patch = patch, .ts_ns = bpf_ktime_get_ns() };
	union module_name_t name = {};

	read_name(name.text, patch);
	enable.replace = read_flag(patch, KLP_PATCH_REPLACE);
	__builtin_memcpy(enable.name, name.text, NAME_LEN);
	if (enabling.lookup(&self))
		lost.atomic_increment(0); /* the end of the one before */
	if (enabling.update(&self, &enable))
		lost.atomic_increment(0);
	if (holders.update(&self, &name))
		lost.atomic_increment(0);
	return 0;
}

int on_enable_return(struct pt_regs *ctx)
{
	u64 self = bpf_get_current_task();
	struct enable_t *enable = enabling.lookup(&self);
	struct event_t *event;

	if (!enable) {
		lost.atomic_increment(0); /* its beginning */
		return 0;
	}
	event = new_event(EVENT_ENABLE, enable->ts_ns);
	if (!event)
		return 0;
	event->duration_ns = bpf_ktime_get_ns() - enable->ts_ns;
	event->error = PT_REGS_RC(ctx);
	event->detail = enable->replace;
	__builtin_memcpy(event->name, enable->name, NAME_LEN);
	submit(event, SHORT_EVENT);
	submit_stack(WHY_ENABLE);
	enabling.delete(&self);
	holders.delete(&self);
	return 0;
}
