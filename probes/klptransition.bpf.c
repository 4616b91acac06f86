// SPDX-License-Identifier: Apache-2.0
/*
 * klptransition.bpf.c - Trace kernel/livepatch/transition.c: what an event holds, and the parts.
 *
 * KLP_TARGET_STATE, KLP_TRANSITION_PATCH, KLP_SIGNALS_CNT, INIT_TASK, RUNQUEUES, __PER_CPU_OFFSET and
 * __CPU_*_MASK are the addresses of the kernel's variables, taken from /proc/kallsyms; PASS_START..
 * PASS_END and FORCE_START..FORCE_END the text of klp_try_complete_transition and
 * klp_force_transition; CPUS is one more than the last possible CPU. EVENT_*, RESULT_*, PATH_*,
 * MOMENT_* and FLAG_* are from klptransitionview.py; other names of a structure and a member are offsets.
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

struct task_struct;
struct klp_patch;
struct klp_object;

struct event_t {
	u64 ts_ns;
	u64 duration_ns;
	u64 first_ns; /* of pass: its first attempt; 0: none */
	u32 kind;
	u32 detail; /* of attempt: result, switch: path, pass: number, census: moment, object: 1 to patch, function: old_sympos */
	s32 error;
	s32 state; /* of a task: its patch_state, else the target */
	s32 after; /* of attempt: the task's patch_state; of fork: the parent's */
	s32 awaited_as; /* of attempt: the task's thread id as it was awaited; -1: it was not */
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
	u32 already; /* of the attempts, those that have no event */
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
	/*
	 * The ring's memory is not zeroed; from here on new_event() only ends the strings. What is about a
	 * task, of which there are many, is written without: only why an attempt failed has its function.
	 */
	char function[NAME_LEN];
	char core_patch[NAME_LEN];
	char patch[NAME_LEN]; /* the event's own, where that may be another */
	char object[NAME_LEN];
};

#define TASK_EVENT offsetof(struct event_t, function)
#define REFUSAL_EVENT offsetof(struct event_t, core_patch)

/* 16 MiB: a pass that switches 100,000 tasks. klpring.py has how many events there can be. */
BPF_RINGBUF_OUTPUT(events, 4096);
BPF_F_TABLE("array", int, u64, lost, 1, BPF_F_MMAPABLE);

#define READ(to, base, offset) bpf_probe_read_kernel(&(to), sizeof(to), (void *)(base) + (offset))

static __always_inline struct event_t *event_of(u32 kind, u64 size)
{
	struct event_t *event = events.ringbuf_reserve(size);

	if (!event) {
		lost.atomic_increment(0);
		return NULL;
	}
	__builtin_memset(event, 0, TASK_EVENT);
	event->ts_ns = bpf_ktime_get_ns();
	event->kind = kind;
	return event;
}

static __always_inline struct event_t *new_event(u32 kind)
{
	struct event_t *event = event_of(kind, sizeof(struct event_t));

	if (event)
		event->function[0] = event->core_patch[0] = event->patch[0] = event->object[0] = 0;
	return event;
}

/* About a task: without any of the strings. */
static __always_inline struct event_t *new_task_event(u32 kind)
{
	return event_of(kind, TASK_EVENT);
}

static __always_inline void submit(struct event_t *event)
{
	events.ringbuf_submit(event, BPF_RB_NO_WAKEUP);
}

/* klpprobe.py puts these in here; a part uses what stands above it. */
#include "klptransition_core.bpf.c"
#include "klptransition_census.bpf.c"
#include "klptransition_passes.bpf.c"
#include "klptransition_steps.bpf.c"
#include "klptransition_tasks.bpf.c"
#include "klptransition_objects.bpf.c"
