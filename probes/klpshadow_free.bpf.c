// SPDX-License-Identifier: Apache-2.0
/*
 * klpshadow_free.bpf.c - Trace klp_shadow_free and klp_shadow_free_all; a part of klpshadow.bpf.c.
 */
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

BPF_TABLE("lru_hash", u64, struct free_t, frees, CALLERS);

static __always_inline void begin_free(struct free_t *call)
{
	u64 self = bpf_get_current_task();
	struct free_t *before = frees.lookup(&self);

	if (!before) {
		if (frees.update(&self, call))
			lost.atomic_increment(0);
		return;
	}
	check_ended(before->ts_ns);
	*before = *call;
}

static __always_inline struct free_t *open_free(void)
{
	u64 self = bpf_get_current_task();
	struct free_t *call = frees.lookup(&self);

	return call && call->ts_ns ? call : NULL;
}

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
