// SPDX-License-Identifier: Apache-2.0
/*
 * klpstates_free.bpf.c - Trace livepatches being freed; a part of klpstates.bpf.c.
 */
#define MODULE_REF_BASE 1 /* kernel/module/main.c */

union module_name_t {
	char text[NAME_LEN];
	u64 words[NAME_LEN / sizeof(u64)];
};

/* The tracepoint module_put's record, include/trace/events/module.h: module_refcnt. */
struct module_refcnt_t {
	u64 common;
	u64 ip;
	s32 refcnt;
	u32 name; /* __data_loc: the place in the low half */
};

BPF_HASH(holders, u64, union module_name_t); /* by task: whose module it may be about to put */

static __always_inline void submit_free(char *name, s32 count, bool forced)
{
	struct event_t *event = new_event(EVENT_PATCH_FREE, bpf_ktime_get_ns());

	if (!event)
		return;
	event->refs = count - MODULE_REF_BASE;
	event->yes = forced;
	bpf_probe_read_kernel(event->name, NAME_LEN, name);
	submit(event, SHORT_EVENT);
}

/*
 * klp_free_patch_finish is inlined here, and in klp_enable_patch for the case that it fails. All it does to
 * the module is module_put, of which the tracepoint tells, afterwards; nothing if the livepatch was forced.
 * A raw tracepoint would know the module, but since 7.0 its programs can be preempted (docs/facts.md).
 */
int on_free_work(struct pt_regs *ctx, void *work)
{
	struct klp_patch *patch = work - KLP_PATCH_FREE_WORK;
	u64 self = bpf_get_current_task();
	union module_name_t name = {};
	struct module *mod;
	s32 count = 0;

	submit_stack(WHY_FREE);
	mod = read_name(name.text, patch);
	if (read_flag(patch, KLP_PATCH_FORCED)) {
		READ(count, mod, MODULE_REFCNT);
		submit_free(name.text, count, true);
	} else {
		if (holders.lookup(&self))
			lost.atomic_increment(0); /* the end of the one before */
		if (holders.update(&self, &name))
			lost.atomic_increment(0);
	}
	return 0;
}

int on_put(struct module_refcnt_t *put)
{
	u64 self = bpf_get_current_task();
	union module_name_t *held = holders.lookup(&self);
	union module_name_t name = {};

	if (!held)
		return 0;
	bpf_probe_read_kernel_str(name.text, NAME_LEN, (void *)put + (put->name & 0xffff));
	for (u32 i = 0; i < NAME_LEN / sizeof(u64); i++)
		if (name.words[i] != held->words[i])
			return 0;
	submit_free(held->text, put->refcnt, false);
	holders.delete(&self);
	return 0;
}
