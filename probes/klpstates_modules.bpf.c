// SPDX-License-Identifier: Apache-2.0
/*
 * klpstates_modules.bpf.c - Trace klp_module_coming and klp_module_going; a part of
 * klpstates.bpf.c.
 */
struct notice_t {
	u64 ts_ns;
	u32 livepatch;
	char name[NAME_LEN];
};

BPF_HASH(notices, u64, struct notice_t); /* calls under way, by task */

int on_module(struct pt_regs *ctx, struct module *mod)
{
	u64 self = bpf_get_current_task();
	struct notice_t notice = { .ts_ns = bpf_ktime_get_ns() };

	notice.livepatch = read_flag(mod, MODULE_KLP);
	bpf_probe_read_kernel_str(notice.name, NAME_LEN, (void *)mod + MODULE_NAME);
	if (notices.lookup(&self))
		lost.atomic_increment(0); /* the end of the one before */
	if (notices.update(&self, &notice))
		lost.atomic_increment(0);
	return 0;
}

static __always_inline int leave_module(u32 action, s32 error)
{
	u64 self = bpf_get_current_task();
	struct notice_t *notice = notices.lookup(&self);
	struct event_t *event;

	if (!notice) {
		lost.atomic_increment(0); /* its beginning */
		return 0;
	}
	event = new_event(EVENT_MODULE, notice->ts_ns);
	if (!event)
		return 0;
	event->duration_ns = bpf_ktime_get_ns() - notice->ts_ns;
	event->detail = action;
	event->error = error;
	event->yes = notice->livepatch;
	__builtin_memcpy(event->name, notice->name, NAME_LEN);
	submit(event, SHORT_EVENT);
	notices.delete(&self);
	return 0;
}

int on_coming_return(struct pt_regs *ctx)
{
	return leave_module(ACTION_COMING, PT_REGS_RC(ctx));
}

int on_going_return(struct pt_regs *ctx)
{
	return leave_module(ACTION_GOING, 0);
}
