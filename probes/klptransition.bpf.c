// SPDX-License-Identifier: Apache-2.0
/*
 * klptransition.bpf.c - Trace kernel/livepatch/transition.c.
 *
 * KLP_TARGET_STATE, KLP_TRANSITION_PATCH and KLP_SIGNALS_CNT are the addresses of the core's static
 * variables, taken from /proc/kallsyms; PASS_START..PASS_END and FORCE_START..FORCE_END the text of
 * klp_try_complete_transition and klp_force_transition. EVENT_*, RESULT_* and PATH_* come from
 * klptransition.py; KLP_PATCH_*, KLP_OBJECT_*, KOBJECT_*, TASK_STRUCT_* and THREAD_INFO_* are offsets
 * of members.
 */
#include <linux/errno.h>
#include <linux/thread_info.h>
#include <linux/types.h>
#include <uapi/linux/ptrace.h>

#define TASK_COMM_LEN 16
#define NAME_LEN 64
#define SIGNALS_TIMEOUT 15 /* kernel/livepatch/transition.c */

struct event_t {
	u64 ts_ns;
	u64 duration_ns;
	u32 kind;
	u32 detail; /* of attempt: result, switch: path, pass: number, object: 1 to patch */
	s32 error;
	s32 state; /* of attempt and switch: the task's patch_state, else the target */
	u32 pid;
	u32 tgid;
	char comm[TASK_COMM_LEN];
	char name[NAME_LEN]; /* of the livepatch; of the object; of the function that blocks */
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
	u32 number;
	u32 signals;
	char patch[NAME_LEN];
};

struct object_t {
	struct klp_object *object;
	u64 ts_ns;
};

BPF_RINGBUF_OUTPUT(events, 1024); /* 4 MiB: one pass over 30,000 tasks */
BPF_ARRAY(lost, u64, 1);
BPF_ARRAY(passes, u32, 1); /* since init */

/* Keyed by task, not by pid: the idle tasks of all CPUs share pid 0. */
BPF_HASH(attempts, u64, struct attempt_t);
BPF_HASH(running, u64, struct pass_t);
BPF_HASH(objects, u64, struct object_t);

struct task_struct;
struct klp_patch;
struct klp_object;

#define READ(to, base, offset) bpf_probe_read_kernel(&(to), sizeof(to), (void *)(base) + (offset))

static __always_inline void submit(struct event_t *event)
{
	if (events.ringbuf_output(event, sizeof(*event), BPF_RB_NO_WAKEUP))
		lost.atomic_increment(0);
}

static __always_inline u32 read_u32(u64 address)
{
	u32 value = 0;

	READ(value, address, 0);
	return value;
}

static __always_inline s32 target_state(void)
{
	return read_u32(KLP_TARGET_STATE);
}

static __always_inline struct klp_patch *transition_patch(void)
{
	struct klp_patch *patch = NULL;

	READ(patch, KLP_TRANSITION_PATCH, 0);
	return patch;
}

static __always_inline void read_patch_name(char *name, struct klp_patch *patch)
{
	const char *at = NULL;

	READ(at, patch, KLP_PATCH_KOBJ + KOBJECT_NAME); /* its module's, in sysfs */
	bpf_probe_read_kernel_str(name, NAME_LEN, at);
}

static __always_inline void read_object_name(char *name, struct klp_object *object)
{
	const char *at = NULL;

	READ(at, object, KLP_OBJECT_NAME);
	if (at) /* NULL is vmlinux */
		bpf_probe_read_kernel_str(name, NAME_LEN, at);
}

static __always_inline s32 read_patch_state(struct task_struct *task)
{
	return read_u32((u64)task + TASK_STRUCT_PATCH_STATE);
}

static __always_inline void read_task(struct event_t *event, struct task_struct *task)
{
	READ(event->pid, task, TASK_STRUCT_PID);
	READ(event->tgid, task, TASK_STRUCT_TGID);
	READ(event->comm, task, TASK_STRUCT_COMM);
}

static __always_inline struct event_t new_event(u32 kind)
{
	struct event_t event = {};

	event.ts_ns = bpf_ktime_get_ns();
	event.kind = kind;
	return event;
}

/* One event about the livepatch in transition, here and now. */
static __always_inline int submit_transition(u32 kind, s32 target)
{
	struct event_t event = new_event(kind);

	event.state = target;
	read_patch_name(event.name, transition_patch());
	submit(&event);
	return 0;
}

int on_init(struct pt_regs *ctx, struct klp_patch *patch, int state)
{
	struct event_t event = new_event(EVENT_INIT);
	u32 zero = 0, none = 0;

	passes.update(&zero, &none);
	event.state = state;
	read_patch_name(event.name, patch); /* klp_transition_patch is set later */
	read_task(&event, (struct task_struct *)bpf_get_current_task());
	submit(&event);
	return 0;
}

int on_start(struct pt_regs *ctx)
{
	return submit_transition(EVENT_START, target_state());
}

int on_complete(struct pt_regs *ctx)
{
	return submit_transition(EVENT_COMPLETE, target_state());
}

int on_cancel(struct pt_regs *ctx)
{
	return submit_transition(EVENT_CANCEL, target_state());
}

int on_reverse(struct pt_regs *ctx)
{
	return submit_transition(EVENT_REVERSE, !target_state()); /* it flips after this point */
}

int on_force(struct pt_regs *ctx)
{
	return submit_transition(EVENT_FORCE, target_state());
}

int on_pass(struct pt_regs *ctx)
{
	u64 self = bpf_get_current_task();
	struct pass_t pass = {};
	u32 zero = 0, *number;

	number = passes.lookup(&zero);
	if (!number)
		return 0;
	*number += 1; /* klp_mutex is held */
	pass.number = *number;
	pass.ts_ns = bpf_ktime_get_ns();
	pass.signals = read_u32(KLP_SIGNALS_CNT);
	read_patch_name(pass.patch, transition_patch()); /* NULL once complete */
	running.update(&self, &pass);
	return 0;
}

/*
 * klp_send_signals is inlined. It was called if the pass left tasks behind (then, and only then, the
 * counter was incremented) and found the counter at a multiple of the timeout.
 */
static __always_inline int was_signalled(u32 before)
{
	return before && !(before % SIGNALS_TIMEOUT) && read_u32(KLP_SIGNALS_CNT) == before + 1;
}

int on_pass_return(struct pt_regs *ctx)
{
	u64 self = bpf_get_current_task();
	struct event_t event = new_event(EVENT_PASS);
	struct pass_t *pass = running.lookup(&self);

	if (!pass)
		return 0; /* it began before us */
	__builtin_memcpy(event.name, pass->patch, NAME_LEN);
	if (was_signalled(pass->signals)) {
		event.kind = EVENT_SIGNALS;
		submit(&event);
		event.kind = EVENT_PASS;
	}
	event.duration_ns = event.ts_ns - pass->ts_ns;
	event.ts_ns = pass->ts_ns;
	event.detail = pass->number;
	submit(&event);
	running.delete(&self);
	return 0;
}

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
	const char *name = NULL;

	if (!attempt)
		return 0;
	attempt->error = PT_REGS_RC(ctx);
	if (attempt->error != -EADDRINUSE)
		return 0;
	READ(name, attempt->blocker, 0);
	bpf_probe_read_kernel_str(attempt->function, NAME_LEN, name);
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

int on_attempt_return(struct pt_regs *ctx)
{
	u64 self = bpf_get_current_task();
	struct event_t event = new_event(EVENT_ATTEMPT);
	struct attempt_t *attempt = attempts.lookup(&self);

	if (!attempt)
		return 0;
	event.detail = result_of(attempt, PT_REGS_RC(ctx) & 1);
	event.error = attempt->error;
	event.state = event.detail == RESULT_ALREADY ? target_state() : attempt->before;
	event.duration_ns = event.ts_ns - attempt->ts_ns;
	event.ts_ns = attempt->ts_ns;
	read_task(&event, attempt->task);
	__builtin_memcpy(event.name, attempt->function, NAME_LEN);
	attempts.delete(&self);
	if (!called_by_pass(ctx)) {
		/* A task may try at every cond_resched: those that fail would drown the rest. */
		if (event.detail != RESULT_SWITCHED)
			return 0;
		event.kind = EVENT_SWITCH;
		event.detail = PATH_SCHEDULER;
		event.state = target_state();
	}
	submit(&event);
	return 0;
}

static __always_inline u32 path_of(struct pt_regs *ctx, u32 pid)
{
	u64 caller = 0;

	READ(caller, PT_REGS_SP(ctx), 0);
	if (caller >= FORCE_START && caller < FORCE_END)
		return PATH_FORCE;
	return pid ? PATH_EXIT : PATH_IDLE; /* exit_to_user_mode_loop, do_idle */
}

int on_update(struct pt_regs *ctx, struct task_struct *task)
{
	struct event_t event = new_event(EVENT_SWITCH);
	unsigned long flags = 0;

	READ(flags, task, TASK_STRUCT_THREAD_INFO + THREAD_INFO_FLAGS);
	if (!(flags & (1UL << TIF_PATCH_PENDING)))
		return 0; /* force walks over all tasks */
	read_task(&event, task);
	event.detail = path_of(ctx, event.pid);
	event.state = target_state();
	submit(&event);
	return 0;
}

int on_fork(struct pt_regs *ctx, struct task_struct *child)
{
	struct task_struct *parent = (struct task_struct *)bpf_get_current_task();
	struct event_t event = new_event(EVENT_SWITCH);

	if (!transition_patch())
		return 0;
	read_task(&event, child);
	event.detail = PATH_FORK;
	event.state = read_patch_state(parent);
	submit(&event);
	return 0;
}

int on_patch_object(struct pt_regs *ctx, struct klp_object *object)
{
	u64 self = bpf_get_current_task();
	struct object_t entered = { .object = object, .ts_ns = bpf_ktime_get_ns() };

	objects.update(&self, &entered);
	return 0;
}

int on_patch_object_return(struct pt_regs *ctx)
{
	u64 self = bpf_get_current_task();
	struct event_t event = new_event(EVENT_OBJECT);
	struct object_t *entered = objects.lookup(&self);

	if (!entered)
		return 0;
	event.ts_ns = entered->ts_ns;
	event.detail = 1;
	event.error = PT_REGS_RC(ctx);
	read_object_name(event.name, entered->object);
	submit(&event);
	objects.delete(&self);
	return 0;
}

/* With nops_only, an object that is not itself dynamic loses its no-ops and stays patched. */
int on_unpatch_object(struct pt_regs *ctx, struct klp_object *object, bool nops_only)
{
	struct event_t event = new_event(EVENT_OBJECT);
	bool dynamic = false;

	READ(dynamic, object, KLP_OBJECT_DYNAMIC);
	if (nops_only && !dynamic)
		return 0;
	read_object_name(event.name, object);
	submit(&event);
	return 0;
}
