// SPDX-License-Identifier: Apache-2.0
/*
 * klptransition_core.bpf.c - Read the livepatch core's variables and structures; and the events that
 * several parts write. A part of klptransition.bpf.c.
 */
static __always_inline u32 read_u32(u64 address)
{
	u32 value = 0;

	READ(value, address, 0);
	return value;
}

static __always_inline bool read_bool(void *base, u32 offset)
{
	bool value = false;

	READ(value, base, offset);
	return value;
}

static __always_inline void *read_pointer(u64 address)
{
	void *value = NULL;

	READ(value, address, 0);
	return value;
}

static __always_inline s32 target_state(void)
{
	return read_u32(KLP_TARGET_STATE);
}

static __always_inline struct klp_patch *transition_patch(void)
{
	return read_pointer(KLP_TRANSITION_PATCH);
}

static __always_inline void read_string(char *to, u64 pointer)
{
	bpf_probe_read_kernel_str(to, NAME_LEN, read_pointer(pointer));
}

static __always_inline void read_patch_name(char *name, struct klp_patch *patch)
{
	read_string(name, (u64)patch + KLP_PATCH_KOBJ + KOBJECT_NAME); /* its module's, in sysfs */
}

/* Into an event or a pass. */
#define READ_CORE(to)                                                                        \
	do {                                                                                 \
		struct klp_patch *in_transition = transition_patch();                        \
                                                                                             \
		(to)->target_state = target_state();                                         \
		(to)->signals_cnt = read_u32(KLP_SIGNALS_CNT);                               \
		(to)->enabled = -1;                                                          \
		(to)->core_patch[0] = 0;                                                     \
		if (in_transition) {                                                         \
			(to)->enabled = read_bool(in_transition, KLP_PATCH_ENABLED);         \
			read_patch_name((to)->core_patch, in_transition);                    \
		}                                                                            \
	} while (0)

static __always_inline s32 read_patch_state(struct task_struct *task)
{
	return read_u32((u64)task + TASK_STRUCT_PATCH_STATE);
}

static __always_inline bool is_pending(struct task_struct *task)
{
	unsigned long flags = 0;

	READ(flags, task, TASK_STRUCT_THREAD_INFO + THREAD_INFO_FLAGS);
	return flags & (1UL << TIF_PATCH_PENDING);
}

static __always_inline void read_task(struct event_t *event, struct task_struct *task)
{
	READ(event->pid, task, TASK_STRUCT_PID);
	READ(event->tgid, task, TASK_STRUCT_TGID);
	READ(event->comm, task, TASK_STRUCT_COMM);
}

static __always_inline bool cpu_is_in(u64 mask, u32 cpu)
{
	u64 bits = 0;

	READ(bits, mask, cpu / 64 * sizeof(bits));
	return bits >> (cpu % 64) & 1;
}

static __always_inline struct task_struct *idle_task(u32 cpu)
{
	u64 offset = (u64)read_pointer(__PER_CPU_OFFSET + cpu * sizeof(offset));

	return read_pointer(RUNQUEUES + offset + RQ_IDLE);
}

/* One event about the livepatch in transition, here and now. */
static __always_inline int submit_transition(u32 kind, s32 target)
{
	struct klp_patch *patch = transition_patch();
	struct event_t *event = new_event(kind);

	if (!event)
		return 0;
	READ_CORE(event);
	event->state = target;
	if (read_bool(patch, KLP_PATCH_REPLACE))
		event->flags |= FLAG_REPLACE;
	if (read_bool(patch, KLP_PATCH_FORCED))
		event->flags |= FLAG_FORCED;
	submit(event);
	return 0;
}

static __always_inline void submit_switch(struct task_struct *task, u32 path, s32 state)
{
	struct event_t *event = new_task_event(EVENT_SWITCH);

	if (!event)
		return;
	read_task(event, task);
	event->detail = path;
	event->state = state;
	submit(event);
}
