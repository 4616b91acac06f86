// SPDX-License-Identifier: Apache-2.0
/*
 * klptransition.bpf.c - Trace kernel/livepatch/transition.c.
 *
 * KLP_TARGET_STATE, KLP_TRANSITION_PATCH, KLP_SIGNALS_CNT, INIT_TASK, RUNQUEUES, __PER_CPU_OFFSET and
 * __CPU_*_MASK are the addresses of the kernel's variables, taken from /proc/kallsyms; PASS_START..
 * PASS_END and FORCE_START..FORCE_END the text of klp_try_complete_transition and
 * klp_force_transition; CPUS is one more than the last possible CPU. EVENT_*, RESULT_*, PATH_* and
 * MOMENT_* come from klptransition.py; other names of a structure and a member are offsets.
 *
 * Whatever runs under klp_mutex (all but attempts of the scheduler, switches, forks and exits) keeps
 * its data in arrays of one element: there is one transition at a time.
 */
#include <linux/errno.h>
#include <linux/thread_info.h>
#include <linux/types.h>
#include <uapi/linux/ptrace.h>

#define TASK_COMM_LEN 16
#define NAME_LEN 64
#define SIGNALS_TIMEOUT 15 /* kernel/livepatch/transition.c */
#define FUNCTIONS_TOLD 32  /* of one object; the bits of functions_t */
#define FUNCTIONS_COUNTED 512

struct task_struct;
struct klp_patch;
struct klp_object;

struct event_t {
	u64 ts_ns;
	u64 duration_ns;
	u32 kind;
	u32 detail; /* of attempt: result, switch: path, pass: number, census: moment, object: 1 to patch */
	s32 error;
	s32 state; /* of a task: its patch_state, else the target */
	s32 after; /* of attempt: the task's patch_state; of fork: the parent's */
	u32 pending;
	u32 parent_pending;
	u32 flags; /* FLAG_* */
	/* of census */
	u32 tasks;
	u32 idle;
	u32 unpatched;
	u32 patched;
	u32 other;
	/* of pass; `count` is of object too */
	u32 count;
	u32 left;
	u32 refused;
	/* the livepatch core's variables; core_patch is the name of the transition patch */
	s32 target_state;
	u32 signals_cnt;
	s32 enabled; /* -1 where there is no such patch */
	u32 pid;
	u32 tgid;
	char comm[TASK_COMM_LEN];
	u32 parent_pid;
	u32 parent_tgid;
	char parent_comm[TASK_COMM_LEN];
	/* The ring's memory is not zeroed; from here on new_event() only ends the strings. */
	char core_patch[NAME_LEN];
	char patch[NAME_LEN]; /* where it is, or may be, another one */
	char object[NAME_LEN];
	char function[NAME_LEN];
};

struct attempt_t {
	struct task_struct *task;
	u64 ts_ns;
	s32 before;
	s32 error;
	u32 checked;
	const char **blocker; /* where klp_check_and_switch_task puts its reason */
	char function[NAME_LEN];
};

struct pass_t {
	u64 ts_ns;
	u64 refused; /* by the scheduler, up to the pass before */
	u32 running;
	u32 number;
	u32 attempts;
	u32 left;
	s32 target_state;
	u32 signals_cnt;
	s32 enabled;
	char core_patch[NAME_LEN];
};

struct functions_t { /* a bit for each function of an object */
	u32 transition;
	u32 patched;
};

struct object_t {
	struct klp_object *object;
	u64 ts_ns;
	struct functions_t functions;
};

BPF_RINGBUF_OUTPUT(events, 2048); /* 8 MiB: ten passes over 2,000 tasks */
BPF_F_TABLE("array", int, u64, lost, 1, BPF_F_MMAPABLE);
BPF_ARRAY(refused, u64, 1); /* attempts of the scheduler that failed */

BPF_ARRAY(passes, struct pass_t, 1);
BPF_ARRAY(objects, struct object_t, 1);
BPF_ARRAY(synchronizing, u64, 1);
BPF_ARRAY(offline, u32, CPUS); /* the CPU's idle task is for the running pass to switch in place */

/* Keyed by task, not by pid: the idle tasks of all CPUs share pid 0. */
BPF_HASH(attempts, u64, struct attempt_t, 1024);
BPF_HASH(forks, u64, u64, 1024);

#define READ(to, base, offset) bpf_probe_read_kernel(&(to), sizeof(to), (void *)(base) + (offset))

/* --- events ----------------------------------------------------------------------------------- */

static __always_inline struct event_t *new_event(u32 kind)
{
	struct event_t *event = events.ringbuf_reserve(sizeof(struct event_t));

	if (!event) {
		lost.atomic_increment(0);
		return NULL;
	}
	__builtin_memset(event, 0, offsetof(struct event_t, core_patch));
	event->core_patch[0] = event->patch[0] = event->object[0] = event->function[0] = 0;
	event->ts_ns = bpf_ktime_get_ns();
	event->kind = kind;
	return event;
}

static __always_inline void submit(struct event_t *event)
{
	events.ringbuf_submit(event, BPF_RB_NO_WAKEUP);
}

/* --- the livepatch core's variables and structures ---------------------------------------------- */

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

/* Of an event or a pass. */
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

#include "klpcensus.bpf.c"

/* --- transitions ------------------------------------------------------------------------------ */

static __always_inline void count_passes_anew(void)
{
	u32 zero = 0;
	struct pass_t *pass = passes.lookup(&zero);

	if (pass)
		pass->number = 0;
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
	u64 now = bpf_ktime_get_ns();
	u32 zero = 0;

	synchronizing.update(&zero, &now);
	return 0;
}

int on_synchronize_return(struct pt_regs *ctx)
{
	u32 zero = 0;
	u64 *began = synchronizing.lookup(&zero);
	struct event_t *event;

	if (!began || !*began)
		return 0; /* it began before us */
	event = new_event(EVENT_SYNCHRONIZE);
	if (event) {
		event->duration_ns = event->ts_ns - *began;
		event->ts_ns = *began;
		submit(event);
	}
	*began = 0;
	return 0;
}

/* --- passes ----------------------------------------------------------------------------------- */

static __always_inline void submit_switch(struct task_struct *task, u32 path, s32 state)
{
	struct event_t *event = new_event(EVENT_SWITCH);

	if (!event)
		return;
	read_task(event, task);
	event->detail = path;
	event->state = state;
	submit(event);
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

int on_pass(struct pt_regs *ctx)
{
	u32 zero = 0;
	struct pass_t *pass = passes.lookup(&zero);

	if (!pass)
		return 0;
	pass->ts_ns = bpf_ktime_get_ns();
	pass->running = 1;
	pass->number += 1;
	pass->attempts = pass->left = 0;
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
	event->left = pass->left;
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

	if (!pass || !pass->running)
		return 0; /* it began before us */
	pass->running = 0;
	submit_offline(pass->target_state);
	if (was_signalled(pass->signals_cnt))
		submit_transition(EVENT_SIGNALS, target_state());
	submit_pass(pass);
	return 0;
}

/* --- tasks ------------------------------------------------------------------------------------ */

int on_attempt(struct pt_regs *ctx, struct task_struct *task)
{
	u64 self = bpf_get_current_task();
	struct attempt_t attempt = {};

	attempt.task = task;
	attempt.ts_ns = bpf_ktime_get_ns();
	attempt.before = read_patch_state(task);
	attempts.update(&self, &attempt);
	return 0;
}

int on_check(struct pt_regs *ctx, struct task_struct *task, void *arg)
{
	u64 self = bpf_get_current_task();
	struct attempt_t *attempt = attempts.lookup(&self);

	if (!attempt)
		return 0;
	attempt->checked = 1;
	attempt->blocker = arg;
	return 0;
}

int on_check_return(struct pt_regs *ctx)
{
	u64 self = bpf_get_current_task();
	struct attempt_t *attempt = attempts.lookup(&self);

	if (!attempt)
		return 0;
	attempt->error = PT_REGS_RC(ctx);
	if (attempt->error == -EADDRINUSE)
		read_string(attempt->function, (u64)attempt->blocker);
	return 0;
}

static __always_inline u32 result_of(struct attempt_t *attempt, bool switched)
{
	if (!switched)
		return RESULT_REFUSED; /* user space knows the errno's name */
#ifdef CHECK_UNSEEN
	return attempt->before == target_state() ? RESULT_ALREADY : RESULT_SWITCHED;
#else
	return attempt->checked ? RESULT_SWITCHED : RESULT_ALREADY;
#endif
}

/*
 * In a return probe the instruction pointer is the caller's. One outside klp_try_complete_transition
 * is the scheduler's: __klp_sched_try_switch (6.5 and later), which can be a tail call.
 */
static __always_inline bool called_by_pass(struct pt_regs *ctx)
{
	return PT_REGS_IP(ctx) >= PASS_START && PT_REGS_IP(ctx) < PASS_END;
}

/* A task may try at every cond_resched: those that fail would drown the rest, and are counted. */
static __always_inline void end_scheduler_attempt(struct task_struct *task, u32 result)
{
	if (result == RESULT_REFUSED)
		refused.atomic_increment(0);
	else if (result == RESULT_SWITCHED)
		submit_switch(task, PATH_SCHEDULER, target_state());
}

static __always_inline void submit_attempt(struct attempt_t *attempt, u32 result)
{
	struct event_t *event = new_event(EVENT_ATTEMPT);

	if (!event)
		return;
	event->duration_ns = event->ts_ns - attempt->ts_ns;
	event->ts_ns = attempt->ts_ns;
	event->detail = result;
	event->error = attempt->error;
	/* One that switched itself since we looked, and before the core did, was there already. */
	event->state = result == RESULT_ALREADY ? target_state() : attempt->before;
	event->after = read_patch_state(attempt->task);
	read_task(event, attempt->task);
	bpf_probe_read_kernel(event->function, NAME_LEN, attempt->function);
	submit(event);
}

int on_attempt_return(struct pt_regs *ctx)
{
	u64 self = bpf_get_current_task();
	u32 zero = 0, result;
	struct pass_t *pass = passes.lookup(&zero);
	struct attempt_t *attempt = attempts.lookup(&self);

	if (!attempt || !pass)
		return 0;
	result = result_of(attempt, PT_REGS_RC(ctx) & 1);
	if (called_by_pass(ctx)) {
		pass->attempts += 1;
		pass->left += result == RESULT_REFUSED;
		submit_attempt(attempt, result);
	} else {
		end_scheduler_attempt(attempt->task, result);
	}
	attempts.delete(&self);
	return 0;
}

static __always_inline u32 path_of(struct pt_regs *ctx, struct task_struct *task)
{
	u64 caller = 0;

	READ(caller, PT_REGS_SP(ctx), 0);
	if (caller >= FORCE_START && caller < FORCE_END)
		return PATH_FORCE;
	/* exit_to_user_mode_loop, do_idle */
	return read_u32((u64)task + TASK_STRUCT_PID) ? PATH_EXIT : PATH_IDLE;
}

int on_update(struct pt_regs *ctx, struct task_struct *task)
{
	if (is_pending(task)) /* force walks over all tasks */
		submit_switch(task, path_of(ctx, task), target_state());
	return 0;
}

int on_fork(struct pt_regs *ctx, struct task_struct *child)
{
	u64 self = bpf_get_current_task(), address = (u64)child;

	if (transition_patch())
		forks.update(&self, &address);
	return 0;
}

int on_fork_return(struct pt_regs *ctx)
{
	u64 self = bpf_get_current_task();
	u64 *address = forks.lookup(&self);
	struct task_struct *child, *parent = (struct task_struct *)self;
	struct event_t *event;

	if (!address)
		return 0;
	child = (struct task_struct *)*address;
	event = new_event(EVENT_FORK);
	if (event) {
		read_task(event, child);
		event->state = read_patch_state(child);
		event->pending = is_pending(child);
		READ(event->parent_pid, parent, TASK_STRUCT_PID);
		READ(event->parent_tgid, parent, TASK_STRUCT_TGID);
		READ(event->parent_comm, parent, TASK_STRUCT_COMM);
		event->after = read_patch_state(parent);
		event->parent_pending = is_pending(parent);
		submit(event);
	}
	forks.delete(&self);
	return 0;
}

int on_exit(void *ctx)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct event_t *event;

	if (!transition_patch())
		return 0;
	event = new_event(EVENT_EXIT);
	if (!event)
		return 0;
	read_task(event, task);
	event->state = read_patch_state(task);
	event->pending = is_pending(task);
	submit(event);
	return 0;
}

/* --- objects and functions -------------------------------------------------------------------- */

/* An object does not point to its livepatch, but its folder in sysfs is inside the livepatch's. */
static __always_inline void read_object(struct event_t *event, struct klp_object *object)
{
	u64 patch_kobj = (u64)read_pointer((u64)object + KLP_OBJECT_KOBJ + KOBJECT_PARENT);

	read_string(event->patch, patch_kobj + KOBJECT_NAME);
	if (read_pointer((u64)object + KLP_OBJECT_NAME)) /* NULL is vmlinux */
		read_string(event->object, (u64)object + KLP_OBJECT_NAME);
}

static __always_inline struct functions_t read_functions(struct klp_object *object)
{
	u64 head = (u64)object + KLP_OBJECT_FUNC_LIST, node = head;
	struct functions_t functions = {};

	for (u32 i = 0; i < FUNCTIONS_TOLD; i++) {
		void *func;

		node = (u64)read_pointer(node);
		if (node == head || !node)
			break;
		func = (void *)node - KLP_FUNC_NODE;
		functions.transition |= (u32)read_bool(func, KLP_FUNC_TRANSITION) << i;
		functions.patched |= (u32)read_bool(func, KLP_FUNC_PATCHED) << i;
	}
	return functions;
}

static __always_inline void submit_function(struct klp_object *object, void *func, u64 ts_ns,
					    u32 transition, u32 patched)
{
	struct event_t *event = new_event(EVENT_FUNCTION);

	if (!event)
		return;
	event->ts_ns = ts_ns;
	read_object(event, object);
	read_string(event->function, (u64)func + KLP_FUNC_OLD_NAME);
	if (read_bool(func, KLP_FUNC_NOP))
		event->flags |= FLAG_NOP;
	if (transition)
		event->flags |= FLAG_TRANSITION;
	if (patched)
		event->flags |= FLAG_PATCHED;
	submit(event);
}

/* Tell of each function of an object as it was at ts_ns, and return how many there are. */
static __always_inline u32 submit_functions(struct klp_object *object, u64 ts_ns,
					    struct functions_t *functions)
{
	u64 head = (u64)object + KLP_OBJECT_FUNC_LIST, node = head;
	u32 i;

	for (i = 0; i < FUNCTIONS_COUNTED; i++) {
		node = (u64)read_pointer(node);
		if (node == head || !node)
			break;
		if (i < FUNCTIONS_TOLD)
			submit_function(object, (void *)node - KLP_FUNC_NODE, ts_ns,
					functions->transition >> i & 1, functions->patched >> i & 1);
	}
	return i;
}

int on_patch_object(struct pt_regs *ctx, struct klp_object *object)
{
	struct object_t entered = { .object = object, .ts_ns = bpf_ktime_get_ns() };
	u32 zero = 0;

	entered.functions = read_functions(object);
	objects.update(&zero, &entered);
	return 0;
}

/* One that fails has unpatched the object again by now, which stands before it. */
int on_patch_object_return(struct pt_regs *ctx)
{
	u32 zero = 0, count;
	struct object_t *entered = objects.lookup(&zero);
	struct event_t *event;

	if (!entered || !entered->object)
		return 0; /* it began before us */
	count = submit_functions(entered->object, entered->ts_ns, &entered->functions);
	event = new_event(EVENT_OBJECT);
	if (event) {
		event->ts_ns = entered->ts_ns;
		event->detail = 1;
		event->error = PT_REGS_RC(ctx);
		event->count = count;
		read_object(event, entered->object);
		submit(event);
	}
	entered->object = NULL;
	return 0;
}

int on_unpatch_object(struct pt_regs *ctx, struct klp_object *object, bool nops_only)
{
	struct functions_t functions = read_functions(object);
	u32 count = submit_functions(object, bpf_ktime_get_ns(), &functions);
	struct event_t *event = new_event(EVENT_OBJECT);

	if (!event)
		return 0;
	event->count = count;
	if (nops_only)
		event->flags |= FLAG_NOPS_ONLY;
	read_object(event, object);
	submit(event);
	return 0;
}
