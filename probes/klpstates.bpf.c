// SPDX-License-Identifier: Apache-2.0
/*
 * klpstates.bpf.c - Trace system states, objects' modules and the stack of livepatches: what an event
 * holds, and the parts.
 *
 * KLP_PATCHES is the address of the core's list of livepatches, from /proc/kallsyms. EVENT_*, CALL_*,
 * WHY_* and ACTION_* come from klpstates.py, as do MAX_STATES and MAX_PATCHES; SIZEOF_KLP_STATE,
 * KLP_PATCH_*, KLP_STATE_* and MODULE_* are the size and the offsets of members.
 */
#include <linux/types.h>
#include <uapi/linux/ptrace.h>

#define TASK_COMM_LEN 16
#define NAME_LEN 64
#define SLOTS (MAX_PATCHES + 1)

struct klp_patch;
struct klp_state;
struct module;

struct event_t {
	u64 ts_ns;
	u64 duration_ns;
	u64 caller;
	u64 id;
	u32 kind;
	u32 detail; /* state_get: CALL_*, patch_stack: WHY_*, module: ACTION_*; else whether it replaces */
	s32 error;
	s32 refs; /* of patch_free: to the module */
	u32 yes; /* compatible; found; forced; is a livepatch */
	u32 version;
	u32 pid;
	u32 tgid;
	u32 patches; /* slots in use, the first included */
	u32 cut; /* there were more livepatches or states than slots */
	char comm[TASK_COMM_LEN];
	char name[NAME_LEN]; /* of the livepatch, or of the module */
	char other[NAME_LEN]; /* of replaced: by which livepatch */
	/*
	 * From here on of compatible and patch_stack alone: other events are written without. Slot 0 is
	 * the livepatch that the event is about, the others are those of klp_patches, lowest first.
	 */
	u64 ids[SLOTS * MAX_STATES]; /* a 0 ends a slot's states */
	u32 versions[SLOTS * MAX_STATES];
	u8 names[SLOTS * NAME_LEN];
};

#define SHORT_EVENT offsetof(struct event_t, ids)

/* Must be larger than struct event_t, of which klpring.py copies the whole, whatever was written. */
BPF_RINGBUF_OUTPUT(events, 64);
BPF_F_TABLE("array", int, u64, lost, 1, BPF_F_MMAPABLE);
BPF_PERCPU_ARRAY(scratch, struct event_t, 1); /* too large for the stack */

#define READ(to, base, offset) bpf_probe_read_kernel(&(to), sizeof(to), (void *)(base) + (offset))

static __always_inline void submit(struct event_t *event, u64 size)
{
	if (events.ringbuf_output(event, size, BPF_RB_NO_WAKEUP))
		lost.atomic_increment(0);
}

/* Each CPU has one: on a CPU, a probe runs to its end before another begins. */
static __always_inline struct event_t *new_event(u32 kind, u64 ts_ns)
{
	u64 thread = bpf_get_current_pid_tgid();
	struct event_t *event;
	u32 zero = 0;

	event = scratch.lookup(&zero);
	if (!event)
		return NULL;
	__builtin_memset(event, 0, SHORT_EVENT);
	event->kind = kind;
	event->ts_ns = ts_ns;
	event->pid = thread;
	event->tgid = thread >> 32;
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	return event;
}

/* Not the kobject's name: klp_enable_patch makes that after it has checked the states. */
static __always_inline struct module *read_name(char *name, struct klp_patch *patch)
{
	struct module *mod = NULL;

	READ(mod, patch, KLP_PATCH_MOD);
	bpf_probe_read_kernel_str(name, NAME_LEN, (void *)mod + MODULE_NAME);
	return mod;
}

static __always_inline bool read_flag(void *base, u32 offset)
{
	bool flag = false;

	READ(flag, base, offset);
	return flag;
}

/* klpprobe.py puts these in here; a part uses what stands above it. */
#include "klpstates_stack.bpf.c"
#include "klpstates_free.bpf.c"
#include "klpstates_enable.bpf.c"
#include "klpstates_get.bpf.c"
#include "klpstates_modules.bpf.c"
