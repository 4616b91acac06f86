// SPDX-License-Identifier: Apache-2.0
/*
 * klpshadow.bpf.c - Trace kernel/livepatch/shadow.c.
 *
 * EVENT_*, CALL_* and RESULT_* come from klpshadow.py; so does FILTER_ID, if one id is asked for.
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
	u64 obj;
	u64 id;
	u64 size;
	u64 variable;
	u64 caller;
	u64 age_ns; /* 0: not known */
	u32 kind;
	u32 call;
	u32 result;
	u32 function; /* has a constructor or destructor */
	u32 count;
	u32 pid;
	u32 tgid;
	char comm[TASK_COMM_LEN];
};

struct variable_t {
	u64 obj;
	u64 id;
};

/* A thread inside klp_shadow_alloc or klp_shadow_get_or_alloc, and what it met there. */
struct alloc_t {
	struct variable_t of;
	u64 ts_ns;
	u64 size;
	u64 memory;
	u32 call;
	u32 ctor;
	u32 asked; /* for memory: it found no variable at first */
	s32 ctor_error;
};

/* A thread inside klp_shadow_free_all. */
struct purge_t {
	u64 id;
	u64 ts_ns;
	u32 dtor;
	u32 count;
};

BPF_RINGBUF_OUTPUT(events, 256); /* 1 MiB: 9,000 variables freed at once */
BPF_ARRAY(lost, u64, 1);
BPF_ARRAY(gets, u64, 1);
BPF_HASH(born, struct variable_t, u64, 65536);
BPF_HASH(allocs, u64, struct alloc_t); /* by task, as purges */
BPF_HASH(purges, u64, struct purge_t);

static __always_inline bool wanted(u64 id)
{
#ifdef FILTER_ID
	return id == FILTER_ID;
#else
	return true;
#endif
}

static __always_inline void submit(struct event_t *event)
{
	if (events.ringbuf_output(event, sizeof(*event), BPF_RB_NO_WAKEUP))
		lost.atomic_increment(0);
}

static __always_inline struct event_t new_event(u32 kind)
{
	struct event_t event = {};
	u64 thread = bpf_get_current_pid_tgid();

	event.ts_ns = bpf_ktime_get_ns();
	event.kind = kind;
	event.pid = thread;
	event.tgid = thread >> 32;
	bpf_get_current_comm(event.comm, sizeof(event.comm));
	return event;
}

static __always_inline int enter_alloc(struct pt_regs *ctx, u32 call)
{
	u64 self = bpf_get_current_task();
	struct alloc_t alloc = {};

	alloc.of.obj = PT_REGS_PARM1(ctx);
	alloc.of.id = PT_REGS_PARM2(ctx);
	alloc.size = PT_REGS_PARM3(ctx);
	alloc.ctor = PT_REGS_PARM5(ctx) != 0;
	alloc.call = call;
	alloc.ts_ns = bpf_ktime_get_ns();
	if (wanted(alloc.of.id))
		allocs.update(&self, &alloc);
	return 0;
}

int on_alloc(struct pt_regs *ctx)
{
	return enter_alloc(ctx, CALL_ALLOC);
}

int on_get_or_alloc(struct pt_regs *ctx)
{
	return enter_alloc(ctx, CALL_GET_OR_ALLOC);
}

/* At the instruction after __klp_shadow_get_or_alloc's call of kmalloc. */
int on_memory(struct pt_regs *ctx)
{
	u64 self = bpf_get_current_task();
	struct alloc_t *alloc = allocs.lookup(&self);

	if (alloc) {
		alloc->asked = 1;
		alloc->memory = PT_REGS_RC(ctx);
	}
	return 0;
}

/* At the instruction after its call of the constructor. */
int on_constructed(struct pt_regs *ctx)
{
	u64 self = bpf_get_current_task();
	struct alloc_t *alloc = allocs.lookup(&self);

	if (alloc)
		alloc->ctor_error = PT_REGS_RC(ctx);
	return 0;
}

/*
 * A variable was made by this call if it lies in the memory that this call was given. Comparing with
 * what existed before would not do: another thread can make it in between, and then ours is thrown
 * away.
 */
static __always_inline u32 result_of(struct alloc_t *alloc, u64 variable)
{
	if (variable)
		return variable == alloc->memory + offsetof(struct klp_shadow, data) ?
			       RESULT_MADE : RESULT_FOUND;
	if (alloc->call == CALL_GET_OR_ALLOC || alloc->ctor_error ||
	    (alloc->asked && !alloc->memory))
		return RESULT_FAILED;
	return RESULT_EXISTS;
}

int on_alloc_return(struct pt_regs *ctx)
{
	u64 self = bpf_get_current_task();
	struct event_t event = new_event(EVENT_SHADOW_ALLOC);
	struct alloc_t *alloc = allocs.lookup(&self);

	if (!alloc)
		return 0;
	event.ts_ns = alloc->ts_ns;
	event.obj = alloc->of.obj;
	event.id = alloc->of.id;
	event.size = alloc->size;
	event.function = alloc->ctor;
	event.call = alloc->call;
	event.variable = PT_REGS_RC(ctx);
	event.result = result_of(alloc, event.variable);
	event.caller = PT_REGS_IP(ctx); /* in a return probe, where the function returns to */
	if (event.result == RESULT_MADE)
		born.update(&alloc->of, &event.ts_ns);
	allocs.delete(&self);
	submit(&event);
	return 0;
}

int on_free(struct pt_regs *ctx, void *obj, unsigned long id, void *dtor)
{
	struct event_t event = new_event(EVENT_SHADOW_FREE);

	if (!wanted(id))
		return 0;
	event.obj = (u64)obj;
	event.id = id;
	event.function = dtor != NULL;
	bpf_probe_read_kernel(&event.caller, sizeof(event.caller), (void *)PT_REGS_SP(ctx));
	submit(&event);
	return 0;
}

int on_free_all(struct pt_regs *ctx, unsigned long id, void *dtor)
{
	u64 self = bpf_get_current_task();
	struct purge_t purge = { .id = id, .dtor = dtor != NULL };

	purge.ts_ns = bpf_ktime_get_ns();
	if (wanted(id))
		purges.update(&self, &purge);
	return 0;
}

int on_free_all_return(struct pt_regs *ctx)
{
	u64 self = bpf_get_current_task();
	struct event_t event = new_event(EVENT_SHADOW_FREE_ALL);
	struct purge_t *purge = purges.lookup(&self);

	if (!purge)
		return 0;
	event.ts_ns = purge->ts_ns;
	event.id = purge->id;
	event.function = purge->dtor;
	event.count = purge->count;
	event.caller = PT_REGS_IP(ctx);
	purges.delete(&self);
	submit(&event);
	return 0;
}

static __always_inline u64 age_of(struct variable_t *key, u64 now)
{
	u64 *since = born.lookup(key);
	u64 age = since ? now - *since : 0;

	born.delete(key);
	return age;
}

/* klp_shadow_free_struct runs under klp_shadow_lock, for klp_shadow_free and klp_shadow_free_all. */
int on_freed(struct pt_regs *ctx, struct klp_shadow *shadow)
{
	u64 self = bpf_get_current_task();
	struct event_t event = new_event(EVENT_SHADOW_FREED);
	struct purge_t *purge = purges.lookup(&self);
	struct variable_t key = {};

	bpf_probe_read_kernel(&key.obj, sizeof(key.obj), &shadow->obj);
	bpf_probe_read_kernel(&key.id, sizeof(key.id), &shadow->id);
	if (!wanted(key.id))
		return 0;
	if (purge)
		purge->count++;
	event.obj = key.obj;
	event.id = key.id;
	event.variable = (u64)shadow + offsetof(struct klp_shadow, data);
	event.age_ns = age_of(&key, event.ts_ns);
	submit(&event);
	return 0;
}

int on_get(struct pt_regs *ctx, void *obj, unsigned long id)
{
	if (wanted(id))
		gets.atomic_increment(0);
	return 0;
}
