// SPDX-License-Identifier: Apache-2.0
/*
 * klptransition_census.bpf.c - Count all tasks by their patch_state; a part of klptransition.bpf.c.
 *
 * The walk goes over the processes, the threads of each, and the idle task of every possible CPU, as
 * for_each_process_thread and for_each_possible_cpu do in kernel/livepatch/transition.c: each task
 * once. It is cut into steps that call each other as tail calls, so that the verifier has one
 * short loop to look at: 33 tail calls, which is the most there may be, see STEP times as many tasks.
 *
 * The core holds klp_mutex meanwhile, but nobody holds tasklist_lock. Under RCU, as every BPF program
 * runs, structures and links stay readable. A task that is forked or reaped during the walk may be
 * counted or not; a task that switches meanwhile is counted in the one state or the other, and may be
 * counted in its new state with the pending flag, or in its old one without it, for these are two reads.
 * None is counted twice: new ones go to the end of the list, and one that left still points onwards.
 */
#define STEP 256

struct census_t {
	u32 moment;
	u32 cpu;
	u32 walked;   /* all processes: now the CPUs */
	u32 finished;
	u32 torn;     /* a link that could not be read */
	u32 tasks;
	u32 idle;
	u32 unpatched;
	u32 patched;
	u32 other;
	u32 pending;
	u64 process;  /* the leader */
	u64 head;     /* of its signal's list of threads */
	u64 node;     /* of the next thread in it; equal to head at its end */
};

/* The counts are in a map, not on the stack: there the verifier would follow each of their values. */
BPF_ARRAY(censuses, struct census_t, 1);
BPF_PROG_ARRAY(census_steps, 1);

static __always_inline void next_process(struct census_t *census)
{
	u64 signal, next = (u64)read_pointer(census->process + TASK_STRUCT_TASKS);

	census->process = next - TASK_STRUCT_TASKS;
	if (!next)
		census->torn = census->walked = 1;
	else if (census->process == INIT_TASK)
		census->walked = 1;
	else {
		signal = (u64)read_pointer(census->process + TASK_STRUCT_SIGNAL);
		census->head = census->node = signal + SIGNAL_STRUCT_THREAD_HEAD;
		if (signal) /* none: it was reaped just now */
			census->node = (u64)read_pointer(census->head);
	}
}

static __always_inline u64 next_thread(struct census_t *census)
{
	u64 task;

	if (census->node == census->head)
		next_process(census);
	if (census->walked || census->node == census->head)
		return 0;
	task = census->node - TASK_STRUCT_THREAD_NODE;
	census->node = (u64)read_pointer(census->node);
	if (!census->node) {
		census->torn = 1;
		census->node = census->head;
	}
	return task;
}

static __always_inline u64 next_idle(struct census_t *census)
{
	u32 cpu = census->cpu;

	if (cpu >= CPUS) {
		census->finished = 1;
		return 0;
	}
	census->cpu = cpu + 1;
	return cpu_is_in(__CPU_POSSIBLE_MASK, cpu) ? (u64)idle_task(cpu) : 0;
}

static __always_inline void count_task(struct census_t *census, u64 task)
{
	s32 state = read_patch_state((struct task_struct *)task);

	census->tasks += 1;
	if (state == -1)
		census->idle += 1;
	else if (state == 0)
		census->unpatched += 1;
	else if (state == 1)
		census->patched += 1;
	else
		census->other += 1;
	if (is_pending((struct task_struct *)task))
		census->pending += 1;
}

static __always_inline void submit_census(struct census_t *census)
{
	struct event_t *event = new_event(EVENT_CENSUS);

	if (!event)
		return;
	READ_CORE(event);
	event->detail = census->moment;
	event->tasks = census->tasks;
	event->idle = census->idle;
	event->unpatched = census->unpatched;
	event->patched = census->patched;
	event->other = census->other;
	event->pending = census->pending;
	if (census->finished && !census->torn)
		event->flags |= FLAG_WHOLE;
	submit(event);
}

int census_step(struct pt_regs *ctx)
{
	u32 zero = 0;
	struct census_t *census = censuses.lookup(&zero);

	if (!census)
		return 0;
	for (u32 i = 0; i < STEP && !census->finished; i++) {
		u64 task = census->walked ? next_idle(census) : next_thread(census);

		if (task)
			count_task(census, task);
	}
	if (!census->finished)
		census_steps.call(ctx, 0); /* returns only where it has been called too often */
	submit_census(census);
	return 0;
}

/* Begin a census; it ends after this program has ended, so nothing can be done after it. */
static __always_inline int take_census(struct pt_regs *ctx, u32 moment)
{
	u32 zero = 0;
	struct census_t *census = censuses.lookup(&zero);

	if (!census)
		return 0;
	__builtin_memset(census, 0, sizeof(*census));
	census->moment = moment;
	census->process = INIT_TASK;
	census_steps.call(ctx, 0);
	return 0;
}
