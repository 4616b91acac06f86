// SPDX-License-Identifier: Apache-2.0
/*
 * klptransition_tasks.bpf.c - Trace what becomes of each task in a transition: attempts to switch it,
 * its switch, its forks and its end; a part of klptransition.bpf.c.
 */
struct attempt_t {
	struct task_struct *task;
	u64 ts_ns;
	s32 before; /* the task's patch_state */
	s32 error;
	u32 checked; /* the core looked at its stack, or tried to */
	s32 awaited_as;
	const char **blocker; /* where klp_check_and_switch_task puts its reason */
	char function[NAME_LEN];
};

/* Keyed by task, not by pid: the idle tasks of all CPUs share pid 0. */
BPF_HASH(attempts, u64, struct attempt_t, 1024);
BPF_HASH(forks, u64, u64, 1024); /* a child; 0: no transition was under way */

/*
 * A pass finds most tasks in the target state already. Such an attempt has no event, and is counted: but
 * for the first after an event told that the task stayed behind, or switched by itself or by force, from
 * which it is known that a switch was not told, or was undone; and for those on a task that is about to end
 * or is a zombie, from which it is known when it left the list. The value is the thread id: exec may give
 * the task its leader's.
 */
BPF_F_TABLE("hash", u64, s32, awaited, 1048576, BPF_F_NO_PREALLOC);

#define PF_EXITING 0x4 /* <linux/sched.h> */

static __always_inline bool is_ending(struct task_struct *task)
{
	return read_u32((u64)task + TASK_STRUCT_FLAGS) & PF_EXITING;
}

static __always_inline void await(struct task_struct *task)
{
	u64 address = (u64)task;
	s32 pid = read_u32((u64)task + TASK_STRUCT_PID);

	if (!is_ending(task) && awaited.update(&address, &pid))
		lost.atomic_increment(0); /* that it is found switched would not be told */
}

/* Return as what it was awaited; -1: it was not. */
static __always_inline s32 end_wait(struct task_struct *task)
{
	u64 address = (u64)task;
	s32 *pid = awaited.lookup(&address), as;

	if (!pid)
		return -1;
	as = *pid;
	awaited.delete(&address);
	return as;
}

int on_attempt(struct pt_regs *ctx, struct task_struct *task)
{
	u64 self = bpf_get_current_task();
	struct attempt_t attempt = {};

	attempt.task = task;
	attempt.ts_ns = bpf_ktime_get_ns();
	attempt.before = read_patch_state(task);
	if (attempts.lookup(&self))
		lost.atomic_increment(0); /* the end of the one before */
	if (attempts.update(&self, &attempt))
		lost.atomic_increment(0);
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

/* By itself, or by force, which may come at the same moment. */
static __always_inline void submit_own_switch(struct task_struct *task, u32 path)
{
	await(task);
	submit_switch(task, path, target_state());
}

/* A task may try at every cond_resched: attempts that fail would drown the rest, and are only counted. */
static __always_inline void end_scheduler_attempt(struct task_struct *task, u32 result)
{
	if (result == RESULT_REFUSED)
		refused.atomic_increment(0);
	else if (result == RESULT_SWITCHED)
		submit_own_switch(task, PATH_SCHEDULER);
}

static __always_inline void write_attempt(struct event_t *event, struct attempt_t *attempt, u32 result)
{
	event->duration_ns = event->ts_ns - attempt->ts_ns;
	event->ts_ns = attempt->ts_ns;
	event->detail = result;
	event->error = attempt->error;
	/* A task that switched between our look and the core's was in its state already, for the core. */
	event->state = result == RESULT_ALREADY ? target_state() : attempt->before;
	event->after = read_patch_state(attempt->task);
	event->awaited_as = attempt->awaited_as;
	read_task(event, attempt->task);
	submit(event);
}

static __always_inline void submit_attempt(struct attempt_t *attempt, u32 result)
{
	struct event_t *event;

	if (result == RESULT_REFUSED) {
		event = event_of(EVENT_ATTEMPT, REFUSAL_EVENT);
		if (!event)
			return;
		bpf_probe_read_kernel(event->function, NAME_LEN, attempt->function);
		write_attempt(event, attempt, result);
	} else {
		event = new_task_event(EVENT_ATTEMPT);
		if (event)
			write_attempt(event, attempt, result);
	}
}

static __always_inline void end_pass_attempt(struct pass_t *pass, struct attempt_t *attempt, u32 result)
{
	attempt->awaited_as = result == RESULT_REFUSED ? -1 : end_wait(attempt->task);
	if (!pass->attempts)
		pass->first_ns = attempt->ts_ns;
	pass->attempts += 1;
	if (result == RESULT_ALREADY && attempt->awaited_as < 0 && !is_ending(attempt->task)) {
		pass->already += 1;
		return;
	}
	if (result == RESULT_REFUSED) {
		pass->left += 1;
		await(attempt->task);
	}
	submit_attempt(attempt, result);
}

int on_attempt_return(struct pt_regs *ctx)
{
	u64 self = bpf_get_current_task();
	u32 zero = 0, result;
	struct pass_t *pass = passes.lookup(&zero);
	struct attempt_t *attempt = attempts.lookup(&self);

	if (!attempt || !pass) {
		lost.atomic_increment(0); /* its beginning */
		return 0;
	}
	result = result_of(attempt, PT_REGS_RC(ctx) & 1);
	if (called_by_pass(ctx))
		end_pass_attempt(pass, attempt, result);
	else
		end_scheduler_attempt(attempt->task, result);
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
		submit_own_switch(task, path_of(ctx, task));
	return 0;
}

int on_fork(struct pt_regs *ctx, struct task_struct *child)
{
	u64 self = bpf_get_current_task(), address = transition_patch() ? (u64)child : 0;

	if (forks.lookup(&self))
		lost.atomic_increment(0); /* the end of the one before */
	if (forks.update(&self, &address))
		lost.atomic_increment(0);
	return 0;
}

static __always_inline void submit_fork(struct task_struct *child, struct task_struct *parent)
{
	struct event_t *event = new_task_event(EVENT_FORK);

	if (!event)
		return;
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

int on_fork_return(struct pt_regs *ctx)
{
	u64 self = bpf_get_current_task();
	u64 *address = forks.lookup(&self);

	if (!address) {
		lost.atomic_increment(0); /* its beginning */
		return 0;
	}
	if (*address)
		submit_fork((struct task_struct *)*address, (struct task_struct *)self);
	forks.delete(&self);
	return 0;
}

int on_exit(void *ctx)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct event_t *event;

	if (!transition_patch())
		return 0;
	end_wait(task); /* a pass that meets it is told from now on */
	event = new_task_event(EVENT_EXIT);
	if (!event)
		return 0;
	read_task(event, task);
	event->state = read_patch_state(task);
	event->pending = is_pending(task);
	submit(event);
	return 0;
}
