// SPDX-License-Identifier: Apache-2.0
/*
 * klpshadow.bpf.c - Trace kernel/livepatch/shadow.c: what an event holds, what is asked for, and the
 * parts.
 *
 * EVENT_*, CALL_*, RESULT_*, TOTAL_*, GET_* and CPUS come from klpshadow.py; so do FILTER_ID and
 * FILTER_PID, if one id or task is asked for, and STACKS, if stacks are.
 */
#include <linux/types.h>
#include <uapi/linux/ptrace.h>

#define TASK_COMM_LEN 16 /* <linux/sched.h> takes clang long to read */

/* Private to shadow.c; the same since 4.15. */
struct klp_shadow {
	struct hlist_node node;
	struct rcu_head rcu_head;
	void *obj;
	unsigned long id;
	char data[];
};

struct event_t {
	u64 ts_ns;
	u64 duration_ns;
	u64 freed_ns; /* of a freed variable: when, and how old it was then; 0: not known */
	u64 age_ns;
	u64 obj;
	u64 id;
	u64 size;
	u64 variable;
	u64 expected;
	u64 caller;
	u64 function; /* constructor or destructor */
	u32 kind; /* EVENT_* */
	u32 call; /* CALL_*, of alloc; so are these two: */
	u32 result; /* RESULT_* */
	u32 flags; /* for the allocator */
	u32 calls; /* of the function */
	u32 count; /* of variables freed */
	s32 returned; /* by the constructor */
	s32 zeroed; /* -1: not looked at */
	s32 stack; /* negative: none */
	u32 pid;
	u32 tgid;
	char comm[TASK_COMM_LEN];
};

struct variable_t {
	u64 obj;
	u64 id;
};

struct life_t {
	u64 variable;
	u64 since_ns;
};

BPF_RINGBUF_OUTPUT(events, 2048); /* 8 MiB: 50,000 events */
BPF_F_TABLE("array", int, u64, lost, 1, BPF_F_MMAPABLE);
BPF_PERCPU_ARRAY(totals, u64, TOTAL_COUNT);

/*
 * The variables that are alive. Its memory is taken as it is used, so that it can be large: beyond a
 * million a variable has no age, and gets of it are not judged.
 */
BPF_F_TABLE("hash", struct variable_t, struct life_t, born, 1048576, BPF_F_NO_PREALLOC);
/* When a variable was freed that is not in `born`, as before the call that made it returned. */
BPF_TABLE("lru_hash", u64, u64, gone, 1024);

/*
 * How many calls can be under way. Each part has a record of them by task, and keeps it, with a ts_ns of
 * 0, for the task's next call: to put a record in and take it out costs more than to find it. Each CPU
 * keeps up to 128 free ones to itself (kernel/bpf/bpf_lru_list.c), so the record of a call under way goes
 * only if 4,096 other tasks call meanwhile. An interrupt that calls in the midst of its task's call costs
 * the event of the latter.
 */
#define CALLERS (4096 + 128 * CPUS)

static __always_inline bool wanted(u64 id)
{
#ifdef FILTER_PID
	u64 thread = bpf_get_current_pid_tgid();

	if ((u32)thread != FILTER_PID && thread >> 32 != FILTER_PID)
		return false;
#endif
#ifdef FILTER_ID
	return id == FILTER_ID;
#else
	return true;
#endif
}

/*
 * What is made and freed is followed whoever does it: a task that is asked for can free, or get, what
 * another made.
 */
static __always_inline bool followed(u64 id)
{
#ifdef FILTER_ID
	return id == FILTER_ID;
#else
	return true;
#endif
}

/* A return without a record: its entry was not seen, or was not asked for. */
static __always_inline void entry_unseen(void)
{
#if !defined(FILTER_ID) && !defined(FILTER_PID)
	lost.atomic_increment(0);
#endif
}

/* A call that began while the record of the one before is open: that one's return was not seen. */
static __always_inline void check_ended(u64 ts_ns)
{
	if (ts_ns)
		lost.atomic_increment(0);
}

static __always_inline void set_head(struct event_t *event, u32 kind, u64 ts_ns)
{
	u64 thread = bpf_get_current_pid_tgid();

	__builtin_memset(event, 0, sizeof(*event)); /* the ring's memory is an old event's */
	event->kind = kind;
	event->ts_ns = ts_ns;
	event->pid = thread;
	event->tgid = thread >> 32;
	event->zeroed = -1;
	event->stack = -1;
	bpf_get_current_comm(event->comm, sizeof(event->comm));
}

/* klpprobe.py puts these in here; a part uses what stands above it. */
#include "klpshadow_callers.bpf.c"
#include "klpshadow_changes.bpf.c"
#include "klpshadow_alloc.bpf.c"
#include "klpshadow_free.bpf.c"
#include "klpshadow_get.bpf.c"
