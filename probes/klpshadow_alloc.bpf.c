// SPDX-License-Identifier: Apache-2.0
/*
 * klpshadow_alloc.bpf.c - Trace klp_shadow_alloc and klp_shadow_get_or_alloc; a part of klpshadow.bpf.c.
 */
#define LOOKED_AT 64 /* bytes of a new variable */

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

BPF_TABLE("lru_hash", u64, struct alloc_t, allocs, CALLERS);

static __always_inline void begin_alloc(struct alloc_t *call)
{
	u64 self = bpf_get_current_task();
	struct alloc_t *before = allocs.lookup(&self);

	if (!before) {
		if (allocs.update(&self, call))
			lost.atomic_increment(0);
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

/* At __klp_shadow_get_or_alloc's call of the constructor. */
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

/* Not if another thread found and freed the variable before this call returned: a change of its slot. */
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
