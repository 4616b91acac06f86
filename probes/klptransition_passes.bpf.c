// SPDX-License-Identifier: Apache-2.0
/*
 * klptransition_passes.bpf.c - Trace the passes over the tasks; a part of klptransition.bpf.c.
 */
#define SIGNALS_TIMEOUT 15 /* kernel/livepatch/transition.c */

struct pass_t {
	u64 ts_ns;
	u64 first_ns; /* its first attempt */
	u64 refused; /* by the scheduler, up to the pass before */
	u32 running;
	u32 number;
	u32 attempts;
	u32 already;
	u32 left;
	s32 target_state;
	u32 signals_cnt;
	s32 enabled;
	char core_patch[NAME_LEN];
};

BPF_ARRAY(refused, u64, 1); /* attempts of the scheduler that failed */
BPF_ARRAY(passes, struct pass_t, 1);
BPF_ARRAY(offline, u32, CPUS); /* the CPU's idle task is for the running pass to switch in place */

static __always_inline void count_passes_anew(void)
{
	u32 zero = 0;
	struct pass_t *pass = passes.lookup(&zero);

	if (pass)
		pass->number = 0;
}

/*
 * A pass calls nothing to switch the idle task of a CPU that is offline: it does so in place. So note
 * those that have yet to change when it begins, and look again when it ends or completes.
 */
static __always_inline void note_offline(s32 target)
{
	for (u32 cpu = 0; cpu < CPUS; cpu++) {
		u32 at = cpu, waits = 0;

		if (cpu_is_in(__CPU_POSSIBLE_MASK, cpu) && !cpu_is_in(__CPU_ONLINE_MASK, cpu))
			waits = read_patch_state(idle_task(cpu)) != target;
		offline.update(&at, &waits);
	}
}

static __always_inline void submit_offline(s32 target)
{
	for (u32 cpu = 0; cpu < CPUS; cpu++) {
		u32 at = cpu, *waits = offline.lookup(&at);
		struct task_struct *task;

		if (!waits || !*waits)
			continue;
		*waits = 0;
		task = idle_task(cpu);
		if (!cpu_is_in(__CPU_ONLINE_MASK, cpu) && read_patch_state(task) == target)
			submit_switch(task, PATH_OFFLINE, target);
	}
}

int on_pass(struct pt_regs *ctx)
{
	u32 zero = 0;
	struct pass_t *pass = passes.lookup(&zero);

	if (!pass)
		return 0;
	if (pass->running)
		lost.atomic_increment(0); /* the end of the one before */
	pass->ts_ns = bpf_ktime_get_ns();
	pass->running = 1;
	pass->number += 1;
	pass->attempts = pass->already = pass->left = 0;
	pass->first_ns = 0;
	READ_CORE(pass); /* the transition patch is NULL once complete */
	note_offline(pass->target_state);
	return 0;
}

/*
 * klp_send_signals is inlined. It was called if the pass left tasks behind (then, and only then, the
 * counter was incremented) and found the counter at a multiple of the timeout.
 */
static __always_inline bool was_signalled(u32 before)
{
	return before && !(before % SIGNALS_TIMEOUT) && read_u32(KLP_SIGNALS_CNT) == before + 1;
}

static __always_inline u32 refused_since(struct pass_t *pass)
{
	u32 zero = 0, since = 0;
	u64 *total = refused.lookup(&zero);

	if (total) {
		since = *total - pass->refused;
		pass->refused = *total;
	}
	return since;
}

static __always_inline void submit_pass(struct pass_t *pass)
{
	struct event_t *event = new_event(EVENT_PASS);

	if (!event)
		return;
	event->duration_ns = event->ts_ns - pass->ts_ns;
	event->ts_ns = pass->ts_ns;
	event->detail = pass->number;
	event->count = pass->attempts;
	event->already = pass->already;
	event->left = pass->left;
	event->first_ns = pass->first_ns;
	event->refused = refused_since(pass);
	event->flags = transition_patch() ? 0 : FLAG_COMPLETE;
	event->target_state = pass->target_state;
	event->signals_cnt = pass->signals_cnt;
	event->enabled = pass->enabled;
	bpf_probe_read_kernel(event->core_patch, NAME_LEN, pass->core_patch);
	submit(event);
}

int on_pass_return(struct pt_regs *ctx)
{
	u32 zero = 0;
	struct pass_t *pass = passes.lookup(&zero);

	if (!pass)
		return 0;
	if (!pass->running) {
		lost.atomic_increment(0); /* its beginning */
		return 0;
	}
	pass->running = 0;
	submit_offline(pass->target_state);
	if (was_signalled(pass->signals_cnt))
		submit_transition(EVENT_SIGNALS, target_state());
	submit_pass(pass);
	return 0;
}
