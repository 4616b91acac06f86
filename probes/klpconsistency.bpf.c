// SPDX-License-Identifier: Apache-2.0
/*
 * klpconsistency.bpf.c - Count which version of a function each task runs, by the task's patch_state.
 *
 * KLP_TARGET_STATE and KLP_TRANSITION_PATCH are the addresses of the core's static variables, from
 * /proc/kallsyms. FUNCTIONS is how many functions can be watched; SITE_* come from klpconsistency.py;
 * KLP_PATCH_*, MODULE_* and TASK_STRUCT_* are offsets of members.
 *
 * Why the state that is read here is the one by which klp_ftrace_handler chose the version
 *
 * The handler reads current->patch_state, with preemption off, some ten instructions before these
 * probes do. In between the state can be changed
 *
 * - by the task itself, on its way to user space or in the idle loop: it is at neither place;
 * - by a pass, or on 7.2 by __schedule, if the task is preempted in between. Both look at its stack
 *   first. One that chose the old version has an address of the old function there (the return address
 *   of the ftrace call), and is refused while patching: its state stays 0. While unpatching it is
 *   at its target already. One that chose the new version is at its target while patching; while
 *   unpatching (7.2, or preempt=full) there are a few instructions at the end of ftrace's trampoline,
 *   before it jumps, where no address of the new function is on the stack yet. A task preempted
 *   exactly there may be switched to 0 and then run the new version. That is a gap of the kernel's,
 *   not of these probes; without kernel preemption (6.1 and 6.12 with preempt=voluntary) there is none;
 * - by klp_complete_transition, to -1: counted as such, and no violation;
 * - by klp_force_transition, without a look at the stack: this does break the rule, and is to be seen.
 *
 * A function that an interrupt calls runs on behalf of the interrupted task, for the handler as here.
 */
#include <linux/types.h>
#include <uapi/linux/ptrace.h>

#define TASK_COMM_LEN 16
#define NAME_LEN 64
#define IDLE -1

struct klp_patch;
struct task_struct;

/* A transition ended. */
struct event_t {
	u64 ts_ns;
	u32 transition;
};

struct row_t {
	u32 function;
	u32 site; /* SITE_* */
	s32 patch_state;
	s32 target; /* -1 unless the function's own livepatch is in transition */
	u32 transition; /* its number, counted since we began */
};

struct count_t {
	u64 count;
	u64 ts_ns; /* of the first, like the following */
	u32 pid;
	u32 tgid;
	char comm[TASK_COMM_LEN];
};

struct name_t {
	char text[NAME_LEN];
};

BPF_RINGBUF_OUTPUT(events, 1);
BPF_F_TABLE("array", int, u64, lost, 1, BPF_F_MMAPABLE); /* calls without a row to count them in */
BPF_ARRAY(transitions, u32, 1);
BPF_ARRAY(moving, u32, 1); /* number of the livepatch in transition, from 1; 0: not one of ours */
BPF_HASH(patches, struct name_t, u32, FUNCTIONS); /* name to number */
BPF_ARRAY(owners, u32, FUNCTIONS); /* function to its livepatch's number */
BPF_HASH(counts, struct row_t, struct count_t);

#define READ(to, base, offset) bpf_probe_read_kernel(&(to), sizeof(to), (void *)(base) + (offset))

int on_init(struct pt_regs *ctx, struct klp_patch *patch)
{
	u32 zero = 0, none = 0, *number, *transition;
	struct module *mod = NULL;
	struct name_t name = {};

	READ(mod, patch, KLP_PATCH_MOD);
	bpf_probe_read_kernel_str(name.text, NAME_LEN, (void *)mod + MODULE_NAME);
	number = patches.lookup(&name);
	moving.update(&zero, number ? number : &none);
	transition = transitions.lookup(&zero);
	if (transition)
		*transition += 1; /* klp_mutex is held */
	return 0;
}

int on_complete(struct pt_regs *ctx)
{
	struct event_t event = { .ts_ns = bpf_ktime_get_ns() };
	u32 zero = 0, *transition;

	transition = transitions.lookup(&zero);
	if (!transition)
		return 0;
	event.transition = *transition;
	events.ringbuf_output(&event, sizeof(event), BPF_RB_NO_WAKEUP); /* lost: the trace's end tells */
	return 0;
}

static __always_inline s32 target_of(u32 function)
{
	u32 zero = 0, *owner, *now;
	u64 patch = 0;
	s32 target = IDLE;

	owner = owners.lookup(&function);
	now = moving.lookup(&zero);
	READ(patch, KLP_TRANSITION_PATCH, 0);
	if (patch && owner && now && *owner == *now)
		READ(target, KLP_TARGET_STATE, 0);
	return target;
}

static __always_inline int ran(u32 function, u32 site)
{
	struct row_t row = { .function = function, .site = site };
	u64 thread = bpf_get_current_pid_tgid();
	struct count_t first = {}, *count;
	u32 zero = 0, *transition;

	READ(row.patch_state, bpf_get_current_task(), TASK_STRUCT_PATCH_STATE);
	row.target = target_of(function);
	transition = transitions.lookup(&zero);
	if (transition)
		row.transition = *transition;
	count = counts.lookup(&row);
	if (!count) {
		first.ts_ns = bpf_ktime_get_ns();
		first.pid = thread;
		first.tgid = thread >> 32;
		bpf_get_current_comm(first.comm, sizeof(first.comm));
		counts.insert(&row, &first); /* fails if another CPU was faster */
		count = counts.lookup(&row);
	}
	if (count)
		lock_xadd(&count->count, 1);
	else
		lost.atomic_increment(0);
	return 0;
}

#define WATCH(number)                                                                  \
	int on_old_bare_##number(struct pt_regs *ctx)                                  \
	{                                                                              \
		return ran(number, SITE_OLD_BARE);                                     \
	}                                                                              \
	int on_old_endbr_##number(struct pt_regs *ctx)                                 \
	{                                                                              \
		return ran(number, SITE_OLD_ENDBR);                                    \
	}                                                                              \
	int on_new_##number(struct pt_regs *ctx)                                       \
	{                                                                              \
		return ran(number, SITE_NEW);                                          \
	}

WATCH(0)
WATCH(1)
WATCH(2)
WATCH(3)
WATCH(4)
WATCH(5)
WATCH(6)
WATCH(7)
WATCH(8)
WATCH(9)
WATCH(10)
WATCH(11)
WATCH(12)
WATCH(13)
WATCH(14)
WATCH(15)
