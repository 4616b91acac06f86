// SPDX-License-Identifier: Apache-2.0
/*
 * klptransition_steps.bpf.c - Trace a transition's steps, from its initialisation to its completion; a
 * part of klptransition.bpf.c.
 */
#define NOT_NOW 1 /* one has ended before */

BPF_ARRAY(synchronizing, u64, 1); /* since when; 0: none was seen yet */

static __always_inline void submit_init(struct klp_patch *patch, int state)
{
	struct event_t *event = new_event(EVENT_INIT);

	if (!event)
		return;
	READ_CORE(event); /* klp_transition_patch is set later */
	event->state = state;
	read_patch_name(event->patch, patch);
	if (read_bool(patch, KLP_PATCH_REPLACE))
		event->flags |= FLAG_REPLACE;
	read_task(event, (struct task_struct *)bpf_get_current_task());
	submit(event);
}

int on_init(struct pt_regs *ctx, struct klp_patch *patch, int state)
{
	count_passes_anew();
	submit_init(patch, state);
	return take_census(ctx, MOMENT_BEFORE_INIT);
}

int on_init_return(struct pt_regs *ctx)
{
	return take_census(ctx, MOMENT_INIT);
}

int on_start(struct pt_regs *ctx)
{
	submit_transition(EVENT_START, target_state());
	return take_census(ctx, MOMENT_BEFORE_START);
}

int on_start_return(struct pt_regs *ctx)
{
	return take_census(ctx, MOMENT_STARTED);
}

int on_cancel(struct pt_regs *ctx)
{
	return submit_transition(EVENT_CANCEL, target_state());
}

int on_reverse(struct pt_regs *ctx)
{
	count_passes_anew();
	return submit_transition(EVENT_REVERSE, !target_state()); /* it flips after this point */
}

int on_force(struct pt_regs *ctx)
{
	return submit_transition(EVENT_FORCE, target_state());
}

int on_force_return(struct pt_regs *ctx)
{
	return take_census(ctx, MOMENT_FORCED);
}

int on_synchronize(struct pt_regs *ctx)
{
	u32 zero = 0;
	u64 *began = synchronizing.lookup(&zero);

	if (!began)
		return 0;
	if (*began > NOT_NOW)
		lost.atomic_increment(0); /* the end of the one before */
	*began = bpf_ktime_get_ns();
	return 0;
}

int on_synchronize_return(struct pt_regs *ctx)
{
	u32 zero = 0;
	u64 *began = synchronizing.lookup(&zero);
	struct event_t *event;

	if (!began || !*began)
		return 0; /* it may have begun before us */
	if (*began == NOT_NOW) {
		lost.atomic_increment(0); /* its beginning */
		return 0;
	}
	event = new_event(EVENT_SYNCHRONIZE);
	if (event) {
		event->duration_ns = event->ts_ns - *began;
		event->ts_ns = *began;
		submit(event);
	}
	*began = NOT_NOW;
	return 0;
}

int on_complete(struct pt_regs *ctx)
{
	submit_offline(target_state());
	submit_transition(EVENT_COMPLETE, target_state());
	return take_census(ctx, MOMENT_BEFORE_COMPLETE);
}

int on_complete_return(struct pt_regs *ctx)
{
	return take_census(ctx, MOMENT_COMPLETED);
}
