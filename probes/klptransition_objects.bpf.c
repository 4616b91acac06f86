// SPDX-License-Identifier: Apache-2.0
/*
 * klptransition_objects.bpf.c - Trace objects and their functions as they are patched and unpatched; a
 * part of klptransition.bpf.c.
 */
#define FUNCTIONS_TOLD 32 /* of one object, an event each; the bits of functions_t */
#define FUNCTIONS_COUNTED 512

struct functions_t { /* a bit for each function of an object */
	u32 transition;
	u32 patched;
};

struct object_t {
	struct klp_object *object;
	u64 ts_ns;
	struct functions_t functions;
};

BPF_ARRAY(objects, struct object_t, 1);

/* An object does not point to its livepatch, but its folder in sysfs is inside the livepatch's. */
static __always_inline void read_object(struct event_t *event, struct klp_object *object)
{
	u64 patch_kobj = (u64)read_pointer((u64)object + KLP_OBJECT_KOBJ + KOBJECT_PARENT);

	read_string(event->patch, patch_kobj + KOBJECT_NAME);
	if (read_pointer((u64)object + KLP_OBJECT_NAME)) /* NULL is vmlinux */
		read_string(event->object, (u64)object + KLP_OBJECT_NAME);
}

/* Which callbacks it has: the first members of struct klp_callbacks, the same since 5.1. */
static __always_inline u32 read_callbacks(struct klp_object *object)
{
	u64 callbacks = (u64)object + KLP_OBJECT_CALLBACKS;
	u32 flags = 0;

	if (read_pointer(callbacks))
		flags |= FLAG_PRE_PATCH;
	if (read_pointer(callbacks + sizeof(void *)))
		flags |= FLAG_POST_PATCH;
	if (read_pointer(callbacks + 2 * sizeof(void *)))
		flags |= FLAG_PRE_UNPATCH;
	if (read_pointer(callbacks + 3 * sizeof(void *)))
		flags |= FLAG_POST_UNPATCH;
	return flags;
}

static __always_inline struct functions_t read_functions(struct klp_object *object)
{
	u64 head = (u64)object + KLP_OBJECT_FUNC_LIST, node = head;
	struct functions_t functions = {};

	for (u32 i = 0; i < FUNCTIONS_TOLD; i++) {
		void *func;

		node = (u64)read_pointer(node);
		if (node == head || !node)
			break;
		func = (void *)node - KLP_FUNC_NODE;
		functions.transition |= (u32)read_bool(func, KLP_FUNC_TRANSITION) << i;
		functions.patched |= (u32)read_bool(func, KLP_FUNC_PATCHED) << i;
	}
	return functions;
}

static __always_inline void submit_function(struct klp_object *object, void *func, u64 ts_ns,
					    u32 transition, u32 patched)
{
	struct event_t *event = new_event(EVENT_FUNCTION);

	if (!event)
		return;
	event->ts_ns = ts_ns;
	read_object(event, object);
	read_string(event->function, (u64)func + KLP_FUNC_OLD_NAME);
	event->detail = (u64)read_pointer((u64)func + KLP_FUNC_OLD_SYMPOS);
	if (read_bool(func, KLP_FUNC_NOP))
		event->flags |= FLAG_NOP;
	if (transition)
		event->flags |= FLAG_TRANSITION;
	if (patched)
		event->flags |= FLAG_PATCHED;
	submit(event);
}

/* Tell of each function of an object as it was at ts_ns, and return how many there are. */
static __always_inline u32 submit_functions(struct klp_object *object, u64 ts_ns,
					    struct functions_t *functions)
{
	u64 head = (u64)object + KLP_OBJECT_FUNC_LIST, node = head;
	u32 i;

	for (i = 0; i < FUNCTIONS_COUNTED; i++) {
		node = (u64)read_pointer(node);
		if (node == head || !node)
			break;
		if (i < FUNCTIONS_TOLD)
			submit_function(object, (void *)node - KLP_FUNC_NODE, ts_ns,
					functions->transition >> i & 1, functions->patched >> i & 1);
	}
	return i;
}

int on_patch_object(struct pt_regs *ctx, struct klp_object *object)
{
	struct object_t entered = { .object = object, .ts_ns = bpf_ktime_get_ns() };
	u32 zero = 0;

	entered.functions = read_functions(object);
	objects.update(&zero, &entered);
	return 0;
}

/* A failed one has unpatched the object again by now: the event of that stands before this one. */
int on_patch_object_return(struct pt_regs *ctx)
{
	u32 zero = 0, count;
	struct object_t *entered = objects.lookup(&zero);
	struct event_t *event;

	if (!entered || !entered->object)
		return 0; /* it began before us */
	count = submit_functions(entered->object, entered->ts_ns, &entered->functions);
	event = new_event(EVENT_OBJECT);
	if (event) {
		event->ts_ns = entered->ts_ns;
		event->detail = 1;
		event->error = PT_REGS_RC(ctx);
		event->count = count;
		event->flags |= read_callbacks(entered->object);
		read_object(event, entered->object);
		submit(event);
	}
	entered->object = NULL;
	return 0;
}

int on_unpatch_object(struct pt_regs *ctx, struct klp_object *object, bool nops_only)
{
	struct functions_t functions = read_functions(object);
	u32 count = submit_functions(object, bpf_ktime_get_ns(), &functions);
	struct event_t *event = new_event(EVENT_OBJECT);

	if (!event)
		return 0;
	event->count = count;
	event->flags |= read_callbacks(object);
	if (nops_only)
		event->flags |= FLAG_NOPS_ONLY;
	read_object(event, object);
	submit(event);
	return 0;
}
