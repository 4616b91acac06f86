// SPDX-License-Identifier: Apache-2.0
/*
 * klpshadow.bpf.c - Trace kernel/livepatch/shadow.c.
 *
 * EVENT_*, CALL_*, RESULT_*, TOTAL_* and GET_* come from klpshadow.py; so do FILTER_ID and FILTER_PID,
 * if one id or task is asked for, and STACKS, if stacks are.
 *
 * Whether a variable was there when klp_shadow_get returned is only known if none was being made or
 * freed meanwhile. So each change is counted where it begins and where it ends, in a slot for its
 * object and id: a get that finds both numbers equal at its entry, and the first unchanged at its
 * return, ran with no change beside it.
 */
#include <linux/types.h>
#include <uapi/linux/ptrace.h>

#define TASK_COMM_LEN 16 /* <linux/sched.h> takes clang long to read */
#define SLOTS 4096 /* a power of 2 */
#define LOOKED_AT 64 /* bytes of a new variable */
#define STACK_SIZE 16384 /* of the kernel's, or a part of it */

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
	u32 kind;
	u32 call;
	u32 result;
	u32 flags;
	u32 calls; /* of the function */
	u32 count;
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

struct slot_t {
	u64 begun;
	u64 ended;
};

/* A thread inside klp_shadow_alloc or klp_shadow_get_or_alloc, and what it met there. */
struct alloc_t {
	struct variable_t of;
	u64 ts_ns;
	u64 size;
	u64 memory;
	u64 begun; /* changes of its slot, before its own */
	u64 ctor;
	u32 call;
	u32 flags;
	u32 asked; /* for memory: it found no variable at first */
	u32 ctor_calls;
	s32 ctor_result;
	s32 zeroed;
};

/* A thread inside klp_shadow_free or klp_shadow_free_all, and the last variable it freed. */
struct free_t {
	struct variable_t of;
	u64 ts_ns;
	u64 dtor;
	u64 caller;
	u32 count;
	u32 dtor_calls;
	struct variable_t last;
	u64 last_variable; /* 0: none, or told already */
	u64 last_ns;
	u64 last_age_ns;
	u64 last_dtor;
};

/* A thread inside klp_shadow_get. */
struct get_t {
	struct variable_t of;
	u64 ts_ns;
	u64 begun;
	u64 quiet; /* no change was under way */
};

struct gets_t {
	u64 count[GET_COUNT];
};

/* A way by which a function was called: where it returns to, and how far down the kernel stack. */
struct way_t {
	u64 caller;
	u64 depth;
};

BPF_RINGBUF_OUTPUT(events, 2048); /* 8 MiB: 50,000 events */
BPF_F_TABLE("array", int, u64, lost, 1, BPF_F_MMAPABLE);
BPF_PERCPU_ARRAY(totals, u64, TOTAL_COUNT);
BPF_PERCPU_HASH(gets, u64, struct gets_t, 1024); /* by id */
BPF_ARRAY(slots, struct slot_t, SLOTS);
/*
 * The variables that are alive. Its memory is taken as it is used, so that it can be large: beyond a
 * million a variable has no age, and gets of it are not judged.
 */
BPF_F_TABLE("hash", struct variable_t, struct life_t, born, 1048576, BPF_F_NO_PREALLOC);
/* Freed before the call that made it returned: by variable, when. */
BPF_TABLE("lru_hash", u64, u64, gone, 1024);
/*
 * By task, and kept for its next call with a ts_ns of 0: to put a record in and take it out costs more
 * than to find it. Each CPU keeps up to 128 free ones to itself (kernel/bpf/bpf_lru_list.c), so the record
 * of a call under way goes only if 4,096 other tasks call meanwhile. An interrupt that calls in the midst
 * of its task's call costs the event of the latter.
 */
#define CALLERS (4096 + 128 * CPUS)
BPF_TABLE("lru_hash", u64, struct alloc_t, allocs, CALLERS);
BPF_TABLE("lru_hash", u64, struct free_t, frees, CALLERS);
BPF_TABLE("lru_hash", u64, struct get_t, getting, CALLERS);
#ifdef STACKS
BPF_STACK_TRACE(stacks, 2048);
BPF_TABLE("lru_hash", struct way_t, s32, ways, 4096); /* the stack of each */
#endif

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
 * Changes are followed whoever makes them: a task that is asked for can free what another made, and
 * get it.
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

static __always_inline void begin_alloc(struct alloc_t *call)
{
	u64 self = bpf_get_current_task();
	struct alloc_t *before = allocs.lookup(&self);

	if (!before) {
		allocs.update(&self, call);
		return;
	}
	check_ended(before->ts_ns);
	*before = *call;
}

static __always_inline void begin_free(struct free_t *call)
{
	u64 self = bpf_get_current_task();
	struct free_t *before = frees.lookup(&self);

	if (!before) {
		frees.update(&self, call);
		return;
	}
	check_ended(before->ts_ns);
	*before = *call;
}

static __always_inline void begin_get(struct get_t *call)
{
	u64 self = bpf_get_current_task();
	struct get_t *before = getting.lookup(&self);

	if (!before) {
		getting.update(&self, call);
		return;
	}
	check_ended(before->ts_ns);
	*before = *call;
}

static __always_inline struct alloc_t *open_alloc(void)
{
	u64 self = bpf_get_current_task();
	struct alloc_t *call = allocs.lookup(&self);

	return call && call->ts_ns ? call : NULL;
}

static __always_inline struct free_t *open_free(void)
{
	u64 self = bpf_get_current_task();
	struct free_t *call = frees.lookup(&self);

	return call && call->ts_ns ? call : NULL;
}

static __always_inline struct get_t *open_get(void)
{
	u64 self = bpf_get_current_task();
	struct get_t *call = getting.lookup(&self);

	return call && call->ts_ns ? call : NULL;
}

static __always_inline struct slot_t *slot_of(struct variable_t *of)
{
	u64 mixed = (of->obj ^ of->id << 32) * 0x61c8864680b583ebULL; /* as hash_64() */
	int index = mixed >> 52;

	return slots.lookup(&index);
}

/* Return how many had begun before. One that begins meanwhile is not among them. */
static __always_inline u64 change_begins(struct variable_t *of)
{
	struct slot_t *slot = slot_of(of);
	u64 before = 0;

	if (slot) {
		before = *(volatile u64 *)&slot->begun;
		__sync_fetch_and_add(&slot->begun, 1);
	}
	return before;
}

static __always_inline void change_ends(struct variable_t *of)
{
	struct slot_t *slot = slot_of(of);

	if (slot)
		__sync_fetch_and_add(&slot->ended, 1);
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

#ifdef STACKS
/*
 * Unwinding a stack would be a third of what an event costs (9 of 25 us on an emulated CPU), and the same
 * functions call again and again: so it is done once for each caller and depth.
 */
static __always_inline s32 stack_of(struct pt_regs *ctx)
{
	struct way_t way = {};
	s32 *known, stack;

	way.caller = PT_REGS_IP(ctx);
	way.depth = PT_REGS_SP(ctx) % STACK_SIZE;
	known = ways.lookup(&way);
	if (known)
		return *known;
	stack = stacks.get_stackid(ctx, 0);
	if (stack >= 0)
		ways.update(&way, &stack);
	return stack;
}
#endif

/* In a return probe the instruction pointer is where the function returns to. */
static __always_inline void set_caller(struct event_t *event, struct pt_regs *ctx)
{
	event->caller = PT_REGS_IP(ctx);
#ifdef STACKS
	event->stack = stack_of(ctx);
#endif
}

/* --- making ------------------------------------------------------------------------------------ */

static __always_inline int enter_alloc(struct pt_regs *ctx, u32 call)
{
	struct alloc_t alloc = {};

	alloc.of.obj = PT_REGS_PARM1(ctx);
	alloc.of.id = PT_REGS_PARM2(ctx);
	if (!followed(alloc.of.id))
		return 0;
	alloc.size = PT_REGS_PARM3(ctx);
	alloc.flags = PT_REGS_PARM4(ctx);
	alloc.ctor = PT_REGS_PARM5(ctx);
	alloc.call = call;
	alloc.zeroed = -1;
	alloc.ts_ns = bpf_ktime_get_ns();
	begin_alloc(&alloc);
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

static __always_inline s32 is_zero(u64 data, u64 size)
{
	u64 words[LOOKED_AT / sizeof(u64)] = {};
	u64 all = 0;
	u32 length = size < LOOKED_AT ? size : LOOKED_AT;

	if (bpf_probe_read_kernel(words, length, (void *)data))
		return -1;
#pragma unroll
	for (int i = 0; i < LOOKED_AT / sizeof(u64); i++)
		all |= words[i];
	return all == 0;
}

/*
 * At the instruction after __klp_shadow_get_or_alloc's call of kmalloc. Here nobody else can have
 * written to the data: once it is registered, other threads can.
 */
int on_memory(struct pt_regs *ctx)
{
	struct alloc_t *alloc = open_alloc();

	if (!alloc)
		return 0;
	alloc->asked = 1;
	alloc->memory = PT_REGS_RC(ctx);
	if (!alloc->memory)
		return 0;
	alloc->begun = change_begins(&alloc->of);
	if (!alloc->ctor)
		alloc->zeroed = is_zero(alloc->memory + offsetof(struct klp_shadow, data),
					alloc->size);
	return 0;
}

/* At its call of the constructor. */
int on_construct(struct pt_regs *ctx)
{
	struct alloc_t *alloc = open_alloc();

	if (alloc)
		alloc->ctor_calls++;
	return 0;
}

/* At the instruction after that call. */
int on_constructed(struct pt_regs *ctx)
{
	struct alloc_t *alloc = open_alloc();

	if (alloc)
		alloc->ctor_result = PT_REGS_RC(ctx);
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
		return alloc->call == CALL_ALLOC ||
				       variable == alloc->memory + offsetof(struct klp_shadow, data) ?
			       RESULT_MADE : RESULT_FOUND;
	if (alloc->call == CALL_GET_OR_ALLOC || alloc->ctor_result ||
	    (alloc->asked && !alloc->memory))
		return RESULT_FAILED;
	return RESULT_EXISTS;
}

static __always_inline void tell_alloc(struct pt_regs *ctx, struct alloc_t *alloc, u32 result)
{
	struct event_t *event = events.ringbuf_reserve(sizeof(struct event_t));

	if (!event) {
		lost.atomic_increment(0);
		return;
	}
	set_head(event, EVENT_SHADOW_ALLOC, alloc->ts_ns);
	event->duration_ns = bpf_ktime_get_ns() - alloc->ts_ns;
	event->obj = alloc->of.obj;
	event->id = alloc->of.id;
	event->size = alloc->size;
	event->flags = alloc->flags;
	event->function = alloc->ctor;
	event->calls = alloc->ctor_calls;
	event->returned = alloc->ctor_result;
	event->call = alloc->call;
	event->result = result;
	event->variable = PT_REGS_RC(ctx);
	event->zeroed = result == RESULT_MADE ? alloc->zeroed : -1;
	set_caller(event, ctx);
	events.ringbuf_submit(event, BPF_RB_NO_WAKEUP);
}

/* Unless another thread found and freed it before this call returned: a change of its slot. */
static __always_inline void remember(struct alloc_t *alloc, struct life_t *life)
{
	struct slot_t *slot = slot_of(&alloc->of);
	u64 *freed_ns = NULL;

	if (!alloc->memory || !slot || *(volatile u64 *)&slot->begun != alloc->begun + 1)
		freed_ns = gone.lookup(&life->variable);
	if (!freed_ns || *freed_ns < life->since_ns)
		born.update(&alloc->of, life);
}

int on_alloc_return(struct pt_regs *ctx)
{
	struct alloc_t *alloc = open_alloc();
	struct life_t life = {};
	u32 result;

	if (!alloc) {
		entry_unseen();
		return 0;
	}
	life.variable = PT_REGS_RC(ctx);
	life.since_ns = alloc->ts_ns;
	result = result_of(alloc, life.variable);
	if (result == RESULT_MADE) {
		if (!alloc->asked && !alloc->ctor)
			alloc->zeroed = is_zero(life.variable, alloc->size);
		remember(alloc, &life);
	}
	if (alloc->memory)
		change_ends(&alloc->of);
	if (wanted(alloc->of.id)) {
		tell_alloc(ctx, alloc, result);
		totals.increment(result); /* RESULT_* are the first of TOTAL_* */
	}
	alloc->ts_ns = 0;
	return 0;
}

/* --- freeing ----------------------------------------------------------------------------------- */

static __always_inline int enter_free(struct pt_regs *ctx, u64 obj, u64 id, u64 dtor, u32 kind)
{
	struct free_t call = {};

	if (!followed(id))
		return 0;
	call.of.obj = obj;
	call.of.id = id;
	call.dtor = dtor;
	if (kind == EVENT_SHADOW_FREE_ALL) { /* tells of variables before it returns */
#ifdef __x86_64__
		bpf_probe_read_kernel(&call.caller, sizeof(call.caller), (void *)PT_REGS_SP(ctx));
#else
		call.caller = PT_REGS_RET(ctx); /* where it returns to is in a register */
#endif
	}
	call.ts_ns = bpf_ktime_get_ns();
	begin_free(&call);
	return 0;
}

int on_free(struct pt_regs *ctx)
{
	return enter_free(ctx, PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx),
			  EVENT_SHADOW_FREE);
}

int on_free_all(struct pt_regs *ctx)
{
	return enter_free(ctx, 0, PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx), EVENT_SHADOW_FREE_ALL);
}

static __always_inline u64 age_of(struct variable_t *key, u64 variable, u64 now)
{
	struct life_t *life = born.lookup(key);
	u64 age = 0;

	if (life && life->variable == variable)
		age = now - life->since_ns;
	else
		gone.update(&variable, &now);
	born.delete(key);
	return age;
}

/*
 * How often the destructor ran is known once the next variable is freed, or the call returns: only
 * then a freed variable is told.
 */
static __always_inline void tell_freed(struct free_t *call)
{
	struct event_t *event;

	if (!call->last_variable)
		return;
	change_ends(&call->last);
	event = wanted(call->last.id) ? events.ringbuf_reserve(sizeof(struct event_t)) : NULL;
	if (event) {
		set_head(event, EVENT_SHADOW_FREED, call->last_ns);
		event->obj = call->last.obj;
		event->id = call->last.id;
		event->variable = call->last_variable;
		event->age_ns = call->last_age_ns;
		event->function = call->last_dtor;
		event->calls = call->dtor_calls;
		event->caller = call->caller;
		events.ringbuf_submit(event, BPF_RB_NO_WAKEUP);
	} else if (wanted(call->last.id)) {
		lost.atomic_increment(0);
	}
	if (wanted(call->last.id))
		totals.increment(TOTAL_FREED);
	call->last_variable = 0;
	call->dtor_calls = 0;
}

/* klp_shadow_free_struct runs under klp_shadow_lock, for klp_shadow_free and klp_shadow_free_all. */
int on_freed(struct pt_regs *ctx)
{
	struct klp_shadow *shadow = (struct klp_shadow *)PT_REGS_PARM1(ctx);
	struct free_t *call = open_free();
	struct variable_t key = {};

	bpf_probe_read_kernel(&key.obj, sizeof(key.obj), &shadow->obj);
	bpf_probe_read_kernel(&key.id, sizeof(key.id), &shadow->id);
	if (!followed(key.id))
		return 0;
	if (!call) { /* its entry was not seen */
		lost.atomic_increment(0);
		born.delete(&key);
		return 0;
	}
	tell_freed(call);
	change_begins(&key);
	call->count++;
	call->last = key;
	call->last_variable = (u64)shadow + offsetof(struct klp_shadow, data);
	call->last_ns = bpf_ktime_get_ns();
	call->last_age_ns = age_of(&key, call->last_variable, call->last_ns);
	call->last_dtor = PT_REGS_PARM2(ctx);
	return 0;
}

/* At klp_shadow_free_struct's call of the destructor. */
int on_destruct(struct pt_regs *ctx)
{
	struct free_t *call = open_free();

	if (call)
		call->dtor_calls++;
	return 0;
}

/* klp_shadow_free's own variable is told with the call, in one event for two. */
static __always_inline bool frees_its_own(struct free_t *call, u32 kind)
{
	return kind == EVENT_SHADOW_FREE && call->last_variable &&
	       call->last.obj == call->of.obj && call->last.id == call->of.id &&
	       call->last_dtor == call->dtor;
}

static __always_inline void set_freed(struct event_t *event, struct free_t *call)
{
	event->variable = call->last_variable;
	event->freed_ns = call->last_ns;
	event->age_ns = call->last_age_ns;
	event->calls = call->dtor_calls;
}

static __always_inline int leave_free(struct pt_regs *ctx, u32 kind)
{
	struct free_t *call = open_free();
	struct event_t *event;
	bool own;

	if (!call) {
		entry_unseen();
		return 0;
	}
	if (kind == EVENT_SHADOW_FREE)
		call->caller = PT_REGS_IP(ctx);
	own = frees_its_own(call, kind);
	if (own)
		change_ends(&call->last);
	else
		tell_freed(call);
	event = wanted(call->of.id) ? events.ringbuf_reserve(sizeof(struct event_t)) : NULL;
	if (event) {
		set_head(event, kind, call->ts_ns);
		if (kind == EVENT_SHADOW_FREE_ALL)
			event->duration_ns = bpf_ktime_get_ns() - call->ts_ns;
		event->obj = call->of.obj;
		event->id = call->of.id;
		event->function = call->dtor;
		event->count = call->count;
		event->caller = call->caller;
		if (own)
			set_freed(event, call);
		events.ringbuf_submit(event, BPF_RB_NO_WAKEUP);
	} else if (wanted(call->of.id)) {
		lost.atomic_increment(0);
		if (own)
			lost.atomic_increment(0);
	}
	if (own && wanted(call->of.id))
		totals.increment(TOTAL_FREED);
	call->ts_ns = 0;
	return 0;
}

int on_free_return(struct pt_regs *ctx)
{
	return leave_free(ctx, EVENT_SHADOW_FREE);
}

int on_free_all_return(struct pt_regs *ctx)
{
	return leave_free(ctx, EVENT_SHADOW_FREE_ALL);
}

/* --- getting ----------------------------------------------------------------------------------- */

int on_get(struct pt_regs *ctx)
{
	struct get_t get = {};
	struct slot_t *slot;

	get.of.obj = PT_REGS_PARM1(ctx);
	get.of.id = PT_REGS_PARM2(ctx);
	if (!wanted(get.of.id))
		return 0;
	get.ts_ns = bpf_ktime_get_ns();
	slot = slot_of(&get.of);
	if (slot) {
		u64 ended = *(volatile u64 *)&slot->ended; /* first: a change in between is seen */

		get.begun = *(volatile u64 *)&slot->begun;
		get.quiet = get.begun == ended;
	}
	begin_get(&get);
	return 0;
}

/*
 * A variable that the probe does not know was made before the trace, if it is one: it has this object
 * and id, and is in the hash. One that left it points back to nowhere (hlist_del_init_rcu).
 */
static __always_inline bool is_variable(u64 variable, struct variable_t *of)
{
	struct klp_shadow *shadow = (void *)variable - offsetof(struct klp_shadow, data);
	struct klp_shadow head = {};

	if (bpf_probe_read_kernel(&head, sizeof(head), shadow))
		return false;
	return (u64)head.obj == of->obj && head.id == of->id && head.node.pprev;
}

static __always_inline u32 judge(struct get_t *get, u64 returned, u64 *expected)
{
	struct life_t *life = born.lookup(&get->of);
	struct slot_t *slot = slot_of(&get->of);
	u32 unknown = !life && returned && is_variable(returned, &get->of);

	*expected = life ? life->variable : 0;
	if (!slot || !get->quiet || *(volatile u64 *)&slot->begun != get->begun)
		return GET_RACING;
	if (unknown)
		return GET_UNKNOWN;
	if (returned != *expected)
		return GET_WRONG;
	return returned ? GET_FOUND : GET_ABSENT;
}

static __always_inline void tell_wrong(struct pt_regs *ctx, struct get_t *get, u64 expected)
{
	struct event_t *event = events.ringbuf_reserve(sizeof(struct event_t));

	if (!event) {
		lost.atomic_increment(0);
		return;
	}
	set_head(event, EVENT_SHADOW_GET_WRONG, get->ts_ns);
	event->obj = get->of.obj;
	event->id = get->of.id;
	event->variable = PT_REGS_RC(ctx);
	event->expected = expected;
	event->caller = PT_REGS_IP(ctx);
	events.ringbuf_submit(event, BPF_RB_NO_WAKEUP);
}

int on_get_return(struct pt_regs *ctx)
{
	struct get_t *get = open_get();
	struct gets_t zero = {};
	struct gets_t *of_id;
	u64 expected = 0;
	u32 kind;

	if (!get) {
		entry_unseen();
		return 0;
	}
	kind = judge(get, PT_REGS_RC(ctx), &expected);
	if (kind == GET_WRONG)
		tell_wrong(ctx, get, expected);
	of_id = gets.lookup_or_try_init(&get->of.id, &zero);
	if (of_id && kind < GET_COUNT)
		of_id->count[kind]++;
	else
		lost.atomic_increment(0); /* of too many ids */
	get->ts_ns = 0;
	return 0;
}
