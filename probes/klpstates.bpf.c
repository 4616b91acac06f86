// SPDX-License-Identifier: Apache-2.0
/*
 * klpstates.bpf.c - Trace system states, objects' modules and the stack of livepatches.
 *
 * KLP_PATCHES is the address of the core's list of livepatches, from /proc/kallsyms. EVENT_*, CALL_*,
 * WHY_* and ACTION_* come from klpstates.py, as do MAX_STATES and MAX_PATCHES; SIZEOF_KLP_STATE,
 * KLP_PATCH_*, KLP_STATE_* and MODULE_* are the size and the offsets of members.
 */
#include <linux/types.h>
#include <uapi/linux/ptrace.h>

#define TASK_COMM_LEN 16
#define NAME_LEN 64
#define MODULE_REF_BASE 1 /* kernel/module/main.c */
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
	s32 refs;
	u32 yes; /* compatible; found; forced; is a livepatch */
	u32 version;
	u32 pid;
	u32 tgid;
	u32 patches; /* slots in use, the first included */
	u32 cut; /* there were more livepatches or states than slots */
	char comm[TASK_COMM_LEN];
	char name[NAME_LEN]; /* of the livepatch, or of the module */
	char other[NAME_LEN];
	/*
	 * From here on of compatible and patch_stack alone: other events are written without. Slot 0 is
	 * the livepatch that the event is about, the others are those of klp_patches, lowest first.
	 */
	u64 ids[SLOTS * MAX_STATES]; /* a 0 ends a slot's states */
	u32 versions[SLOTS * MAX_STATES];
	u8 names[SLOTS * NAME_LEN];
};

#define SHORT_EVENT offsetof(struct event_t, ids)

struct enable_t {
	struct klp_patch *patch;
	u64 ts_ns;
	u32 replace;
	char name[NAME_LEN];
};

union module_name_t {
	char text[NAME_LEN];
	u64 words[NAME_LEN / sizeof(u64)];
};

/* The tracepoint module_put's record, include/trace/events/module.h: module_refcnt. */
struct module_refcnt_t {
	u64 common;
	u64 ip;
	s32 refcnt;
	u32 name; /* __data_loc: the place in the low half */
};

struct get_t {
	struct klp_patch *patch;
	u64 id;
	u64 ts_ns;
};

struct get_key_t {
	u64 task;
	u64 call; /* klp_get_prev_state may call klp_get_state */
};

struct notice_t {
	u64 ts_ns;
	u32 livepatch;
	char name[NAME_LEN];
};

/* Must be larger than struct event_t, of which klpstates.py copies the whole, whatever was written. */
BPF_RINGBUF_OUTPUT(events, 64);
BPF_F_TABLE("array", int, u64, lost, 1, BPF_F_MMAPABLE);
BPF_PERCPU_ARRAY(scratch, struct event_t, 1); /* too large for the stack */

/* By task. */
BPF_HASH(enabling, u64, struct enable_t);
BPF_HASH(checking, u64, struct enable_t);
BPF_HASH(holders, u64, union module_name_t); /* who is about to put a livepatch's module */
BPF_HASH(gets, struct get_key_t, struct get_t);
BPF_HASH(notices, u64, struct notice_t);

#define READ(to, base, offset) bpf_probe_read_kernel(&(to), sizeof(to), (void *)(base) + (offset))

static __always_inline void submit(struct event_t *event, u64 size)
{
	if (events.ringbuf_output(event, size, BPF_RB_NO_WAKEUP))
		lost.atomic_increment(0);
}

/* Each CPU has one: a probe runs to its end before another begins. */
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

static __always_inline void read_states(struct event_t *event, u32 slot, struct klp_patch *patch)
{
	void *state = NULL;
	u64 id = 0;

	READ(state, patch, KLP_PATCH_STATES);
	for (u32 i = 0; i < MAX_STATES; i++) {
		u32 at = slot * MAX_STATES + i;

		if (at >= SLOTS * MAX_STATES)
			return;
		event->ids[at] = 0;
		event->versions[at] = 0;
		if (!state || READ(id, state, KLP_STATE_ID) || !id)
			return;
		event->ids[at] = id;
		READ(event->versions[at], state, KLP_STATE_VERSION);
		state += SIZEOF_KLP_STATE;
	}
	READ(id, state, KLP_STATE_ID);
	event->cut |= !!id;
}

/* Fill the slots from 1 on. klp_mutex is held, but by no means must be: a torn list only ends early. */
static __always_inline void read_stack(struct event_t *event, bool with_states)
{
	u64 at = 0;

	READ(at, KLP_PATCHES, 0);
	event->patches = 1;
	for (u32 slot = 1; slot < SLOTS; slot++) {
		struct klp_patch *patch = (void *)at - KLP_PATCH_LIST;

		if (!at || at == KLP_PATCHES)
			return;
		read_name((char *)&event->names[slot * NAME_LEN], patch);
		if (with_states)
			read_states(event, slot, patch);
		event->patches = slot + 1;
		if (READ(at, at, 0))
			return;
	}
	event->cut |= at && at != KLP_PATCHES;
}

static __always_inline void submit_stack(u32 why)
{
	struct event_t *event = new_event(EVENT_PATCH_STACK, bpf_ktime_get_ns());

	if (!event)
		return;
	event->detail = why;
	read_stack(event, false);
	submit(event, sizeof(*event));
}

/* --- compatibility, and enabling ------------------------------------------------------------------ */

int on_check(struct pt_regs *ctx, struct klp_patch *patch)
{
	u64 self = bpf_get_current_task();
	struct enable_t check = { .patch = patch, .ts_ns = bpf_ktime_get_ns() };

	checking.update(&self, &check);
	return 0;
}

int on_check_return(struct pt_regs *ctx)
{
	u64 self = bpf_get_current_task();
	struct enable_t *check = checking.lookup(&self);
	struct event_t *event;

	if (!check)
		return 0;
	event = new_event(EVENT_COMPATIBLE, check->ts_ns);
	if (!event)
		return 0;
	event->yes = PT_REGS_RC(ctx) & 1;
	event->detail = read_flag(check->patch, KLP_PATCH_REPLACE);
	read_name(event->name, check->patch);
	/* klp_mutex is held from before the call: the states are still those that were compared. */
	read_states(event, 0, check->patch);
	read_stack(event, true);
	submit(event, sizeof(*event));
	checking.delete(&self);
	return 0;
}

int on_enable(struct pt_regs *ctx, struct klp_patch *patch)
{
	u64 self = bpf_get_current_task();
	struct enable_t enable = { .patch = patch, .ts_ns = bpf_ktime_get_ns() };
	union module_name_t name = {};

	read_name(name.text, patch);
	enable.replace = read_flag(patch, KLP_PATCH_REPLACE);
	__builtin_memcpy(enable.name, name.text, NAME_LEN);
	enabling.update(&self, &enable);
	holders.update(&self, &name);
	return 0;
}

int on_enable_return(struct pt_regs *ctx)
{
	u64 self = bpf_get_current_task();
	struct enable_t *enable = enabling.lookup(&self);
	struct event_t *event;

	if (!enable)
		return 0;
	event = new_event(EVENT_ENABLE, enable->ts_ns);
	if (!event)
		return 0;
	event->duration_ns = bpf_ktime_get_ns() - enable->ts_ns;
	event->error = PT_REGS_RC(ctx);
	event->detail = enable->replace;
	__builtin_memcpy(event->name, enable->name, NAME_LEN);
	submit(event, SHORT_EVENT);
	submit_stack(WHY_ENABLE);
	enabling.delete(&self);
	holders.delete(&self);
	return 0;
}

/* --- the stack of livepatches, and its end -------------------------------------------------------- */

int on_complete(struct pt_regs *ctx)
{
	submit_stack(WHY_COMPLETE);
	return 0;
}

/* The core walks the list up to the new livepatch: all before it are replaced. */
int on_replace(struct pt_regs *ctx, struct klp_patch *by)
{
	u64 at = 0;

	READ(at, KLP_PATCHES, 0);
	for (u32 i = 0; i < MAX_PATCHES; i++) {
		struct klp_patch *patch = (void *)at - KLP_PATCH_LIST;
		struct event_t *event;

		if (!at || at == KLP_PATCHES || patch == by)
			return 0;
		event = new_event(EVENT_REPLACED, bpf_ktime_get_ns());
		if (!event)
			return 0;
		read_name(event->name, patch);
		read_name(event->other, by);
		submit(event, SHORT_EVENT);
		READ(at, at, 0);
	}
	return 0;
}

static __always_inline void submit_free(char *name, s32 count, bool forced)
{
	struct event_t *event = new_event(EVENT_PATCH_FREE, bpf_ktime_get_ns());

	if (!event)
		return;
	event->refs = count - MODULE_REF_BASE;
	event->yes = forced;
	bpf_probe_read_kernel(event->name, NAME_LEN, name);
	submit(event, SHORT_EVENT);
}

/*
 * klp_free_patch_finish is inlined: here, and in klp_enable_patch where that fails. All it does to the
 * module is module_put, of which the tracepoint tells, after it; not for a livepatch that was forced.
 * A raw tracepoint would know the module, but since 7.0 its programs can be preempted (docs/facts.md).
 */
int on_free_work(struct pt_regs *ctx, void *work)
{
	struct klp_patch *patch = work - KLP_PATCH_FREE_WORK;
	u64 self = bpf_get_current_task();
	union module_name_t name = {};
	struct module *mod;
	s32 count = 0;

	submit_stack(WHY_FREE);
	mod = read_name(name.text, patch);
	if (read_flag(patch, KLP_PATCH_FORCED)) {
		READ(count, mod, MODULE_REFCNT);
		submit_free(name.text, count, true);
	} else {
		holders.update(&self, &name);
	}
	return 0;
}

int on_put(struct module_refcnt_t *put)
{
	u64 self = bpf_get_current_task();
	union module_name_t *held = holders.lookup(&self);
	union module_name_t name = {};

	if (!held)
		return 0;
	bpf_probe_read_kernel_str(name.text, NAME_LEN, (void *)put + (put->name & 0xffff));
	for (u32 i = 0; i < NAME_LEN / sizeof(u64); i++)
		if (name.words[i] != held->words[i])
			return 0;
	submit_free(held->text, put->refcnt, false);
	holders.delete(&self);
	return 0;
}

/* --- klp_get_state, klp_get_prev_state ------------------------------------------------------------ */

static __always_inline int enter_get(u64 call, struct klp_patch *patch, u64 id)
{
	struct get_key_t key = { .task = bpf_get_current_task(), .call = call };
	struct get_t get = { .patch = patch, .id = id, .ts_ns = bpf_ktime_get_ns() };

	gets.update(&key, &get);
	return 0;
}

static __always_inline int leave_get(struct pt_regs *ctx, u64 call)
{
	struct get_key_t key = { .task = bpf_get_current_task(), .call = call };
	void *state = (void *)PT_REGS_RC(ctx);
	struct get_t *get = gets.lookup(&key);
	struct event_t *event;

	if (!get)
		return 0;
	event = new_event(EVENT_STATE_GET, get->ts_ns);
	if (!event)
		return 0;
	event->detail = call;
	event->caller = PT_REGS_IP(ctx); /* in a return probe, the caller's */
	event->id = get->id;
	if (get->patch)
		read_name(event->name, get->patch);
	if (state && !READ(event->version, state, KLP_STATE_VERSION))
		event->yes = !READ(event->id, state, KLP_STATE_ID);
	submit(event, SHORT_EVENT);
	gets.delete(&key);
	return 0;
}

int on_get(struct pt_regs *ctx, struct klp_patch *patch, unsigned long id)
{
	return enter_get(CALL_GET, patch, id);
}

int on_get_return(struct pt_regs *ctx)
{
	return leave_get(ctx, CALL_GET);
}

int on_get_prev(struct pt_regs *ctx, unsigned long id)
{
	return enter_get(CALL_GET_PREV, NULL, id);
}

int on_get_prev_return(struct pt_regs *ctx)
{
	return leave_get(ctx, CALL_GET_PREV);
}

/* --- modules ---------------------------------------------------------------------------------------- */

int on_module(struct pt_regs *ctx, struct module *mod)
{
	u64 self = bpf_get_current_task();
	struct notice_t notice = { .ts_ns = bpf_ktime_get_ns() };

	notice.livepatch = read_flag(mod, MODULE_KLP);
	bpf_probe_read_kernel_str(notice.name, NAME_LEN, (void *)mod + MODULE_NAME);
	notices.update(&self, &notice);
	return 0;
}

static __always_inline int leave_module(u32 action, s32 error)
{
	u64 self = bpf_get_current_task();
	struct notice_t *notice = notices.lookup(&self);
	struct event_t *event;

	if (!notice)
		return 0;
	event = new_event(EVENT_MODULE, notice->ts_ns);
	if (!event)
		return 0;
	event->duration_ns = bpf_ktime_get_ns() - notice->ts_ns;
	event->detail = action;
	event->error = error;
	event->yes = notice->livepatch;
	__builtin_memcpy(event->name, notice->name, NAME_LEN);
	submit(event, SHORT_EVENT);
	notices.delete(&self);
	return 0;
}

int on_coming_return(struct pt_regs *ctx)
{
	return leave_module(ACTION_COMING, PT_REGS_RC(ctx));
}

int on_going_return(struct pt_regs *ctx)
{
	return leave_module(ACTION_GOING, 0);
}
