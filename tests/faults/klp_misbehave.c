// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_misbehave.c - make the livepatch core break one of its promises
 *
 * Purpose: show that a rule can be seen broken, in a trace of a real kernel.
 * Each fault is told by "how". There are two kinds:
 *
 *   - a function of the livepatch core is itself livepatched, by one that does
 *     wrong and calls the original's body for the rest; the fault shows with
 *     the next livepatch, or the next shadow variable;
 *   - a callback or the init function of this livepatch reaches into the
 *     core's own variables; the fault shows in this livepatch's transition.
 *
 * Usage, in a guest that nobody will miss:
 *
 *   # insmod klp_misbehave.ko how=no_stack_check
 *   # cat /sys/module/klp_misbehave/parameters/struck
 *   0
 *
 * The table at the end has them all, with the rule that each breaks.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bits.h>
#include <linux/err.h>
#include <linux/ftrace.h>
#include <linux/hashtable.h>
#include <linux/kernel.h>
#include <linux/kprobes.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/rculist.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/string.h>

/* The names of these values are not the same in all kernels; 6.1 has others. */
#define STATE_IDLE	-1
#define STATE_PATCHED	1

static char *how = "";
module_param(how, charp, 0444);
MODULE_PARM_DESC(how, "the fault, see the table in the source");

static unsigned int struck;
module_param(struck, uint, 0444);
MODULE_PARM_DESC(struck, "how often the fault was committed");

/* Faults that would do it again and again do it this often. */
static unsigned int times = UINT_MAX;
module_param(times, uint, 0644);
MODULE_PARM_DESC(times, "commit the fault no more often than this");

/* ... and let as many pass before: what the scenario needs to get there. */
static unsigned int spare;
module_param(spare, uint, 0444);
MODULE_PARM_DESC(spare, "commit the fault only after it could have been so often");

static unsigned long (*lookup)(const char *name);
static struct klp_patch **transition_patch;
static int *target_state;
static unsigned int *signals_cnt;

/* The body of the function that is livepatched: beyond its call of ftrace. */
static void *body;

/* This livepatch. */
static struct klp_patch patch;

/*
 * A fault in a function of the core is for those that come after. Were it
 * committed from the moment that the kworker itself has switched, then this
 * livepatch's own transition might end with tasks left in it, or not at all.
 */
static bool strike(void)
{
	if (body && *transition_patch == &patch)
		return false;
	if (spare) {
		spare--;
		return false;
	}
	if (struck >= READ_ONCE(times))
		return false;
	struck++;
	return true;
}

static void call(const char *name)
{
	void (*func)(void);

	func = (void *)lookup(name);
	if (func && strike())
		func();
	else
		pr_err("%s: cannot be called\n", name);
}

static void switch_task(struct task_struct *task)
{
	clear_tsk_thread_flag(task, TIF_PATCH_PENDING);
	task->patch_state = *target_state;
}

/* T12: a task is switched with whatever it has on its stack. */
static int no_stack_check(struct task_struct *task, void *arg)
{
	int (*orig)(struct task_struct *task, void *arg) = body;

	if (!strike())
		return orig(task, arg);
	switch_task(task);
	return 0;
}

/* T5: the check says that the task may not be switched, and it is. */
static int switch_blocked(struct task_struct *task, void *arg)
{
	int (*orig)(struct task_struct *task, void *arg) = body;
	int err = orig(task, arg);

	if (err == -EADDRINUSE && strike())
		switch_task(task);
	return err;
}

/* T4: the core believes that all tasks have switched, and none has. */
static bool skip_tasks(struct task_struct *task)
{
	bool (*orig)(struct task_struct *task) = body;

	return strike() || orig(task);
}

/* T7: signals are sent in every pass, from the first. */
static void early_signals(void)
{
	void (*orig)(void) = body;

	if (strike())
		*signals_cnt = 15;
	orig();
}

/* T13: the first process switches by itself, on no known path. */
static void switch_unseen(void)
{
	void (*orig)(void) = body;

	if (strike())
		switch_task(next_task(&init_task));
	orig();
}

/* T4: the first process has switched, and has to do it again. */
static void switch_back(void)
{
	void (*orig)(void) = body;
	struct task_struct *task = next_task(&init_task);

	if (task->patch_state == *target_state && strike()) {
		task->patch_state = !*target_state;
		set_tsk_thread_flag(task, TIF_PATCH_PENDING);
	}
	orig();
}

/* T12: nobody looks at a task's state any more, and all run the new functions. */
static void transition_forgotten(void)
{
	void (*orig)(void) = body;
	struct klp_object *obj;
	struct klp_func *func;

	if (strike()) {
		list_for_each_entry(obj, &(*transition_patch)->obj_list, node)
			list_for_each_entry(func, &obj->func_list, node)
				func->transition = false;
	}
	orig();
}

/* T8: a reversal leaves "enabled" as it was. */
static void reverse_half(void)
{
	void (*orig)(void) = body;

	if (strike())
		(*transition_patch)->enabled = !(*transition_patch)->enabled;
	orig();
}

/* C8: a disabling that is reversed does not run post-patch again. */
static void reverse_silent(void)
{
	void (*orig)(void) = body;
	struct klp_object *obj;

	list_for_each_entry(obj, &(*transition_patch)->obj_list, node) {
		if (obj->callbacks.post_patch && strike())
			obj->callbacks.post_patch = NULL;
	}
	orig();
}

/* C6, T10: a transition that is cancelled ends as if it had been started. */
static void cancel_half(void)
{
	call("klp_complete_transition");
}

/* T9: what was forced is not pinned. */
static void force_unpinned(void)
{
	void (*orig)(void) = body;
	struct klp_patch *patch;
	struct list_head *patches = (void *)lookup("klp_patches");

	orig();
	if (!patches || !strike())
		return;
	list_for_each_entry(patch, patches, list)
		patch->forced = false;
}

/* T11: a child starts in the state that its parent is not in. */
static void orphan(struct task_struct *child)
{
	void (*orig)(struct task_struct *child) = body;

	orig(child);
	if (child->patch_state != STATE_IDLE && strike())
		child->patch_state = !child->patch_state;
}

/* C2, C4: post-unpatch runs after a pre-patch that failed. */
static void post_unpatch_anyway(void)
{
	void (*orig)(void) = body;
	struct klp_object *obj;

	list_for_each_entry(obj, &(*transition_patch)->obj_list, node) {
		obj->callbacks.post_unpatch_enabled = true;
		strike();
	}
	orig();
}

/* C7: an atomic replace runs the callbacks of those it replaces. */
static void replaced_callbacks(struct klp_patch *new_patch)
{
	void (*orig)(struct klp_patch *new_patch) = body;
	void (*cleanup)(struct module *mod, struct klp_patch *limit);
	struct klp_object *obj;

	cleanup = (void *)lookup("klp_cleanup_module_patches_limited");
	list_for_each_entry(obj, &new_patch->obj_list, node) {
		if (obj->mod && cleanup && strike())
			cleanup(obj->mod, new_patch);
	}
	orig(new_patch);
}

/* L3: an atomic replace leaves the functions of those it replaces in place. */
static void replaced_kept(struct klp_patch *new_patch)
{
	strike();
}

/* L5: the transition goes through, and nothing was patched. */
static int not_patched(struct klp_object *obj)
{
	strike();
	return 0;
}

/* L2: the newest livepatch is put below the one before it. */
static int below(struct klp_object *obj)
{
	int (*orig)(struct klp_object *obj) = body;
	struct klp_func *func;
	int err = orig(obj);

	if (err)
		return err;
	list_for_each_entry(func, &obj->func_list, node) {
		if (strike())
			list_move(&func->stack_node, func->stack_node.next);
	}
	return 0;
}

/* V2, V3: what is incompatible is let in. */
static bool compatible(struct klp_patch *patch)
{
	bool (*orig)(struct klp_patch *patch) = body;

	return strike() || orig(patch);
}

/* V1, V4: what is compatible is refused. */
static bool incompatible(struct klp_patch *patch)
{
	bool (*orig)(struct klp_patch *patch) = body;

	return !strike() && orig(patch);
}

/* V5, V6: the livepatch does not find its own state. */
static struct klp_state *no_state(struct klp_patch *patch, unsigned long id)
{
	typeof(klp_get_state) *orig = body;

	return strike() ? NULL : orig(patch, id);
}

/* V5, V6: the replaced livepatch's state is not found, nor its data freed. */
static struct klp_state *no_prev_state(unsigned long id)
{
	typeof(klp_get_prev_state) *orig = body;

	return strike() ? NULL : orig(id);
}

/* V5: of several livepatches below, the oldest answers. */
static struct klp_state *oldest_prev_state(unsigned long id)
{
	typeof(klp_get_prev_state) *orig = body;
	struct klp_patch *patch;
	struct klp_state *state;
	struct list_head *patches = (void *)lookup("klp_patches");

	if (!patches)
		return NULL;
	list_for_each_entry(patch, patches, list) {
		if (patch == *transition_patch)
			break;
		for (state = patch->states; state && state->id; state++) {
			if (state->id == id && strike())
				return state;
		}
	}
	return orig(id);
}

/* Private to shadow.c; the same since 4.15. */
struct shadow {
	struct hlist_node node;
	struct rcu_head rcu_head;
	void *obj;
	unsigned long id;
	char data[];
};

static struct shadow *shadow_of(void *var)
{
	return var ? container_of(var, struct shadow, data[0]) : NULL;
}

/* klp_shadow_hash has 2^12 buckets; nobody else changes it in these scenarios. */
static struct hlist_head *bucket_of(void *obj)
{
	struct hlist_head *hash = (void *)lookup("klp_shadow_hash");

	return &hash[hash_min((unsigned long)obj, 12)];
}

/* klp_shadow_get(), unseen by the probes. */
static void *shadow_there(void *obj, unsigned long id)
{
	struct shadow *shadow;

	hlist_for_each_entry(shadow, bucket_of(obj), node) {
		if (shadow->obj == obj && shadow->id == id)
			return shadow->data;
	}
	return NULL;
}

/*
 * S1: what exists is not found, and allocated again. As the core would, had it
 * not looked: the one that stands is out of the hash while the next is made.
 */
static void *alloc_twice(void *obj, unsigned long id, size_t size, gfp_t flags,
			 klp_shadow_ctor_t ctor, void *ctor_data)
{
	typeof(klp_shadow_alloc) *orig = body;
	struct shadow *there = shadow_of(shadow_there(obj, id));
	void *var;

	if (!there || !strike())
		return orig(obj, id, size, flags, ctor, ctor_data);
	hlist_del_init_rcu(&there->node);
	var = orig(obj, id, size, flags, ctor, ctor_data);
	hlist_add_head_rcu(&there->node, bucket_of(obj));
	return var;
}

/* S2, S9: a variable that exists is not found. */
static void *get_nothing(void *obj, unsigned long id)
{
	typeof(klp_shadow_get) *orig = body;

	return strike() ? NULL : orig(obj, id);
}

/* S3: get_or_alloc returns something else than what is registered. */
static void *get_other(void *obj, unsigned long id, size_t size, gfp_t flags,
		       klp_shadow_ctor_t ctor, void *ctor_data)
{
	typeof(klp_shadow_alloc) *orig = body;
	void *there = shadow_there(obj, id);
	void *var = orig(obj, id, size, flags, ctor, ctor_data);

	return there && strike() ? var + sizeof(long) : var;
}

/* S4: the constructor runs twice for one variable: the first was lost. */
static void *ctor_twice(void *obj, unsigned long id, size_t size, gfp_t flags,
			klp_shadow_ctor_t ctor, void *ctor_data)
{
	typeof(klp_shadow_alloc) *orig = body;
	void *var = orig(obj, id, size, flags, ctor, ctor_data);

	if (!var || !ctor || !strike())
		return var;
	hlist_del_init_rcu(&shadow_of(var)->node);
	return orig(obj, id, size, flags, ctor, ctor_data);
}

/* S4: the constructor fails, and a variable is registered all the same. */
static void *ctor_ignored(void *obj, unsigned long id, size_t size, gfp_t flags,
			  klp_shadow_ctor_t ctor, void *ctor_data)
{
	typeof(klp_shadow_alloc) *orig = body;
	void *var = orig(obj, id, size, flags, ctor, ctor_data);

	if (var || !ctor || shadow_there(obj, id) || !strike())
		return var;
	return orig(obj, id, size, flags, NULL, NULL);
}

/* S8: the memory of a variable is not zeroed. */
static void *not_zeroed(void *obj, unsigned long id, size_t size, gfp_t flags,
			klp_shadow_ctor_t ctor, void *ctor_data)
{
	typeof(klp_shadow_alloc) *orig = body;
	struct shadow *shadow;

	if (ctor || shadow_there(obj, id) || !strike())
		return orig(obj, id, size, flags, ctor, ctor_data);
	shadow = kmalloc(sizeof(*shadow) + size, flags);
	if (!shadow)
		return NULL;
	memset(shadow, 0xa5, sizeof(*shadow) + size);
	shadow->obj = obj;
	shadow->id = id;
	hlist_add_head_rcu(&shadow->node, bucket_of(obj));
	return shadow->data;
}

/* S5: the destructor is dropped on the way. */
static void dtor_dropped(void *obj, unsigned long id, klp_shadow_dtor_t dtor)
{
	typeof(klp_shadow_free) *orig = body;

	orig(obj, id, strike() ? NULL : dtor);
}

/* S5: the destructor is not called. */
static void dtor_skipped(struct shadow *shadow, klp_shadow_dtor_t dtor)
{
	void (*orig)(struct shadow *shadow, klp_shadow_dtor_t dtor) = body;

	orig(shadow, strike() ? NULL : dtor);
}

/* S5: the destructor runs twice, first for what only looks like the variable. */
static void dtor_twice(struct shadow *shadow, klp_shadow_dtor_t dtor)
{
	void (*orig)(struct shadow *shadow, klp_shadow_dtor_t dtor) = body;
	struct shadow *copy = NULL;

	if (dtor && strike())
		copy = kzalloc(ksize(shadow), GFP_ATOMIC);
	if (copy) {
		copy->obj = shadow->obj;
		copy->id = shadow->id;
		orig(copy, dtor);
	}
	orig(shadow, dtor);
}

/* S7: a variable that was freed stays. */
static void free_nothing(void *obj, unsigned long id, klp_shadow_dtor_t dtor)
{
	typeof(klp_shadow_free) *orig = body;

	if (!strike())
		orig(obj, id, dtor);
}

/* S6: free_all frees nothing, or those of another id as well. */
static void free_none(unsigned long id, klp_shadow_dtor_t dtor)
{
	typeof(klp_shadow_free_all) *orig = body;

	if (!strike())
		orig(id, dtor);
}

static void free_more(unsigned long id, klp_shadow_dtor_t dtor)
{
	typeof(klp_shadow_free_all) *orig = body;

	orig(id, dtor);
	if (strike())
		orig(id + 1, NULL);
}

/* S6: free_all also frees those of an id that is equal in its low half. */
static void free_alike(unsigned long id, klp_shadow_dtor_t dtor)
{
	typeof(klp_shadow_free_all) *orig = body;

	orig(id, dtor);
	if (strike())
		orig(id ^ BIT_ULL(32), NULL);
}

/* What follows happens in this livepatch's own life. */
static struct klp_func no_funcs[] = {
	{ }
};

static struct klp_func funcs[] = {
	{ }, { }
};

static struct klp_object objs[] = {
	{
		.funcs = no_funcs,
	}, {
		.name = "klp_holder",
		.funcs = no_funcs,
	}, { }
};

/*
 * Out of the core's list, it is not replaced by the livepatch that is to meet it.
 * As early as this, for what is traced of the list must never have it: that is
 * told as a transition completes, and not always once more before the next one.
 */
static int hide(struct klp_object *obj)
{
	list_del_init(&patch.list);
	return 0;
}

/* T1: a second transition begins in the first. */
static int init_twice(struct klp_object *obj)
{
	void (*init)(struct klp_patch *patch, int state);

	init = (void *)lookup("klp_init_transition");
	if (!init)
		return -ENOENT;
	strike();
	init(&patch, STATE_PATCHED);
	return 0;
}

/* T3: started before its objects are patched. */
static int start_early(struct klp_object *obj)
{
	call("klp_start_transition");
	return 0;
}

/* T10: reversed, and reversed again, before it is started. */
static int reverse_unstarted(struct klp_object *obj)
{
	call("klp_reverse_transition");
	call("klp_reverse_transition");
	return 0;
}

/* C1: post-patch runs before the transition is started. */
static int post_patch_early(struct klp_object *obj)
{
	call("klp_complete_transition");
	return init_twice(obj);
}

/* C3: an object that is not loaded is treated as if it were. */
static int unloaded(struct klp_object *obj)
{
	strike();
	objs[1].mod = THIS_MODULE;
	return 0;
}

static int nothing(struct klp_object *obj)
{
	return 0;
}

/* T6: a task is still in a state, or pending, after completion. */
static void state_left(struct klp_object *obj)
{
	strike();
	next_task(&init_task)->patch_state = STATE_PATCHED;
}

static void pending_left(struct klp_object *obj)
{
	strike();
	set_tsk_thread_flag(next_task(&init_task), TIF_PATCH_PENDING);
}

/* L1: sysfs says that it is disabled, and it is not. */
static void enabled_wrong(struct klp_object *obj)
{
	strike();
	patch.enabled = false;
}

/* L4: the module is pinned after it was disabled, though nobody forced it. */
static void pinned(struct klp_object *obj)
{
	strike();
	patch.forced = true;
}

static void tell(struct klp_object *obj)
{
	pr_info("post-patch\n");
}

/* L6: the kernel warns. */
static void warns(struct klp_object *obj)
{
	WARN(strike(), "told to warn\n");
}

/* T2: the target state, or a task's, is not idle when a transition begins. */
static void target_left(void)
{
	strike();
	*target_state = 0;
}

static void task_left(void)
{
	strike();
	next_task(&init_task)->patch_state = 0;
}

/**
 * struct fault - one way to misbehave
 * @how:	its name
 * @symbol:	the function of the livepatch core that is livepatched, or NULL
 * @func:	what takes the function's place
 * @pre_patch:	else: this livepatch's pre-patch callback for vmlinux
 * @post_patch:	else: its post-patch callback for vmlinux
 * @post_unpatch: else: its post-unpatch callback for vmlinux
 * @before:	else: called before this livepatch is enabled
 */
static const struct fault {
	const char *how;
	const char *symbol;
	void *func;
	int (*pre_patch)(struct klp_object *obj);
	void (*post_patch)(struct klp_object *obj);
	void (*post_unpatch)(struct klp_object *obj);
	void (*before)(void);
} faults[] = {
	{ "no_stack_check", "klp_check_and_switch_task", no_stack_check },
	{ "switch_blocked", "klp_check_and_switch_task", switch_blocked },
	{ "skip_tasks", "klp_try_switch_task", skip_tasks },
	{ "early_signals", "klp_try_complete_transition", early_signals },
	{ "switch_unseen", "klp_try_complete_transition", switch_unseen },
	{ "switch_back", "klp_try_complete_transition", switch_back },
	{ "transition_forgotten", "klp_try_complete_transition",
	  transition_forgotten },
	{ "reverse_half", "klp_reverse_transition", reverse_half },
	{ "reverse_silent", "klp_reverse_transition", reverse_silent },
	{ "cancel_half", "klp_cancel_transition", cancel_half },
	{ "force_unpinned", "klp_force_transition", force_unpinned },
	{ "orphan", "klp_copy_process", orphan },
	{ "post_unpatch_anyway", "klp_cancel_transition", post_unpatch_anyway },
	{ "replaced_callbacks", "klp_unpatch_replaced_patches",
	  replaced_callbacks },
	{ "replaced_kept", "klp_unpatch_replaced_patches", replaced_kept },
	{ "not_patched", "klp_patch_object", not_patched },
	{ "below", "klp_patch_object", below },
	{ "compatible", "klp_is_patch_compatible", compatible },
	{ "incompatible", "klp_is_patch_compatible", incompatible },
	{ "no_state", "klp_get_state", no_state },
	{ "no_prev_state", "klp_get_prev_state", no_prev_state },
	{ "oldest_prev_state", "klp_get_prev_state", oldest_prev_state },
	{ "alloc_twice", "klp_shadow_alloc", alloc_twice },
	{ "get_nothing", "klp_shadow_get", get_nothing },
	{ "get_other", "klp_shadow_get_or_alloc", get_other },
	{ "ctor_twice", "klp_shadow_alloc", ctor_twice },
	{ "ctor_ignored", "klp_shadow_alloc", ctor_ignored },
	{ "not_zeroed", "klp_shadow_alloc", not_zeroed },
	{ "dtor_dropped", "klp_shadow_free", dtor_dropped },
	{ "dtor_skipped", "klp_shadow_free_struct", dtor_skipped },
	{ "dtor_twice", "klp_shadow_free_struct", dtor_twice },
	{ "free_nothing", "klp_shadow_free", free_nothing },
	{ "free_none", "klp_shadow_free_all", free_none },
	{ "free_more", "klp_shadow_free_all", free_more },
	{ "free_alike", "klp_shadow_free_all", free_alike },
	{ "init_twice", .pre_patch = init_twice },
	{ "start_early", .pre_patch = start_early },
	{ "reverse_unstarted", .pre_patch = reverse_unstarted },
	{ "post_patch_early", .pre_patch = post_patch_early,
	  .post_patch = tell },
	{ "unloaded", .pre_patch = unloaded },
	{ "state_left", .post_patch = state_left },
	{ "pending_left", .post_patch = pending_left },
	{ "enabled_wrong", .post_patch = enabled_wrong },
	{ "warns", .post_patch = warns },
	{ "pinned", .post_unpatch = pinned },
	{ "target_left", .before = target_left },
	{ "task_left", .before = task_left },
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

/* kallsyms_lookup_name() is not exported, but a kprobe tells where it is. */
static int find_lookup(void)
{
	struct kprobe kp = {
		.symbol_name = "kallsyms_lookup_name",
	};
	int err;

	err = register_kprobe(&kp);
	if (err)
		return err;
	lookup = (void *)kp.addr;
	unregister_kprobe(&kp);
	return 0;
}

static int find_core(void)
{
	int err = find_lookup();

	if (err)
		return err;
	transition_patch = (void *)lookup("klp_transition_patch");
	target_state = (void *)lookup("klp_target_state");
	signals_cnt = (void *)lookup("klp_signals_cnt");
	return transition_patch && target_state && signals_cnt ? 0 : -ENOENT;
}

/* The function's own code goes on after the instruction that ftrace rewrites. */
static int find_body(const char *symbol)
{
	unsigned long (*location)(unsigned long ip);
	unsigned long at = lookup(symbol);

	location = (void *)lookup("ftrace_location");
	at = at && location ? location(at) : 0;
	if (!at) {
		pr_err("%s: not in this kernel, or not traceable\n", symbol);
		return -ENOENT;
	}
	body = (void *)(at + MCOUNT_INSN_SIZE);
	return 0;
}

static int prepare(const struct fault *fault)
{
	struct klp_callbacks *callbacks = &objs[0].callbacks;
	int err;

	if (fault->symbol) {
		err = find_body(fault->symbol);
		if (err)
			return err;
		funcs[0].old_name = fault->symbol;
		funcs[0].new_func = fault->func;
		objs[0].funcs = funcs;
	}
	callbacks->pre_patch = fault->symbol ? hide : fault->pre_patch;
	callbacks->post_patch = fault->post_patch;
	callbacks->post_unpatch = fault->post_unpatch;
	objs[1].callbacks.pre_patch = nothing;
	if (fault->before)
		fault->before();
	return 0;
}

static int __init klp_misbehave_init(void)
{
	int i, err;

	for (i = 0; i < ARRAY_SIZE(faults); i++) {
		if (!strcmp(how, faults[i].how))
			break;
	}
	if (i == ARRAY_SIZE(faults)) {
		pr_err("how=%s: no such fault\n", how);
		return -EINVAL;
	}

	err = find_core();
	err = err ?: prepare(&faults[i]);
	return err ?: klp_enable_patch(&patch);
}

static void __exit klp_misbehave_exit(void)
{
}

module_init(klp_misbehave_init);
module_exit(klp_misbehave_exit);
MODULE_DESCRIPTION("Makes the livepatch core break one of its promises");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
