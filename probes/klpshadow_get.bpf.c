// SPDX-License-Identifier: Apache-2.0
/*
 * klpshadow_get.bpf.c - Judge and count the calls of klp_shadow_get; a part of klpshadow.bpf.c.
 */
#define COMPARED_NS 1000000 /* how long a get may take whose answer is compared beside a change */

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

BPF_PERCPU_HASH(gets, u64, struct gets_t, 1024); /* by id */
BPF_TABLE("lru_hash", u64, struct get_t, getting, CALLERS);

static __always_inline void begin_get(struct get_t *call)
{
	u64 self = bpf_get_current_task();
	struct get_t *before = getting.lookup(&self);

	if (!before) {
		if (getting.update(&self, call))
			lost.atomic_increment(0);
		return;
	}
	check_ended(before->ts_ns);
	*before = *call;
}

static __always_inline struct get_t *open_get(void)
{
	u64 self = bpf_get_current_task();
	struct get_t *call = getting.lookup(&self);

	return call && call->ts_ns ? call : NULL;
}

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
static __always_inline bool read_head(u64 variable, struct klp_shadow *head)
{
	return !bpf_probe_read_kernel(head, sizeof(*head),
				      (void *)variable - offsetof(struct klp_shadow, data));
}

static __always_inline bool is_of(struct klp_shadow *head, struct variable_t *of)
{
	return (u64)head->obj == of->obj && head->id == of->id;
}

static __always_inline bool is_variable(u64 variable, struct variable_t *of)
{
	struct klp_shadow head = {};

	return read_head(variable, &head) && is_of(&head, of) && head.node.pprev;
}

/*
 * Beside a change NULL is right, and so is any variable of this object and id: one that has just left
 * the hash keeps its memory for a grace period (kfree_rcu). A get that took long is not compared: its
 * task may have been preempted after it left RCU's section, and that memory be another's by now.
 */
static __always_inline u32 judge_raced(struct get_t *get, u64 returned)
{
	struct klp_shadow head = {};

	if (bpf_ktime_get_ns() - get->ts_ns > COMPARED_NS)
		return GET_RACING;
	if (!returned)
		return GET_RACED_RIGHT;
	return read_head(returned, &head) && is_of(&head, &get->of) ? GET_RACED_RIGHT : GET_RACED_WRONG;
}

static __always_inline u32 judge(struct get_t *get, u64 returned, u64 *expected)
{
	struct life_t *life = born.lookup(&get->of);
	struct slot_t *slot = slot_of(&get->of);
	u32 unknown = !life && returned && is_variable(returned, &get->of);

	*expected = life ? life->variable : 0;
	if (!slot || !get->quiet || *(volatile u64 *)&slot->begun != get->begun)
		return judge_raced(get, returned);
	if (unknown)
		return GET_UNKNOWN;
	if (returned != *expected)
		return GET_WRONG;
	return returned ? GET_FOUND : GET_ABSENT;
}

static __always_inline void tell_wrong(struct pt_regs *ctx, struct get_t *get, u64 expected, u32 kind)
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
	event->result = kind;
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
	if (kind == GET_WRONG || kind == GET_RACED_WRONG)
		tell_wrong(ctx, get, expected, kind);
	of_id = gets.lookup_or_try_init(&get->of.id, &zero);
	if (of_id && kind < GET_COUNT)
		of_id->count[kind]++;
	else
		lost.atomic_increment(0); /* of too many ids */
	get->ts_ns = 0;
	return 0;
}
