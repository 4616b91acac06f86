// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_module_target.c - livepatch of a module, with callbacks and a shadow
 * variable
 *
 * Purpose: fix klp_target_answer() of klp_target.ko, and count the calls of
 * the fixed function in a shadow variable of the target's struct module:
 *
 *   pre-patch	  attaches the counter, before any task can call the new code
 *   post-patch	  says that the target is patched
 *   pre-unpatch  says how often the new code was called so far
 *   post-unpatch frees the counter, when no task can be in the new code
 *
 * The livepatch does not depend on its target: either may be loaded first, and
 * the callbacks run when the second of them comes.
 *
 * Usage:
 *
 *   # insmod klp_target.ko
 *   # insmod klp_module_target.ko
 *   # cat /proc/klp_target
 *   42
 *   # echo 0 > /sys/kernel/livepatch/klp_module_target/enabled
 *   # rmmod klp_module_target
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/atomic.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>

/* Shadow variable ids: one number space for all livepatches of a kernel. */
#define SV_CALLS	0x6b6c7001

/* The shadow variable's owner; set from pre-patch to post-unpatch. */
static struct module *target;

static int livepatch_target_answer(int from)
{
	atomic_t *calls;

	calls = klp_shadow_get(target, SV_CALLS);
	if (calls)
		atomic_inc(calls);

	return from * 7;
}

static int calls_ctor(void *obj, void *shadow_data, void *ctor_data)
{
	atomic_set(shadow_data, 0);
	return 0;
}

static void calls_dtor(void *obj, void *shadow_data)
{
	pr_info("counter freed after %d calls\n", atomic_read(shadow_data));
}

static int pre_patch(struct klp_object *obj)
{
	atomic_t *calls;

	calls = klp_shadow_alloc(obj->mod, SV_CALLS, sizeof(*calls), GFP_KERNEL,
				 calls_ctor, NULL);
	if (!calls)
		return -ENOMEM;

	target = obj->mod;
	pr_info("counter attached to %s\n", obj->name);
	return 0;
}

static void post_patch(struct klp_object *obj)
{
	pr_info("%s is patched\n", obj->name);
}

static void pre_unpatch(struct klp_object *obj)
{
	atomic_t *calls;

	calls = klp_shadow_get(obj->mod, SV_CALLS);
	pr_info("%s is about to be unpatched after %d calls\n", obj->name,
		calls ? atomic_read(calls) : 0);
}

static void post_unpatch(struct klp_object *obj)
{
	klp_shadow_free(obj->mod, SV_CALLS, calls_dtor);
	target = NULL;
}

static struct klp_func funcs[] = {
	{
		.old_name = "klp_target_answer",
		.new_func = livepatch_target_answer,
	}, { }
};

static struct klp_object objs[] = {
	{
		.name = "klp_target",
		.funcs = funcs,
		.callbacks = {
			.pre_patch = pre_patch,
			.post_patch = post_patch,
			.pre_unpatch = pre_unpatch,
			.post_unpatch = post_unpatch,
		},
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_module_target_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_module_target_exit(void)
{
}

module_init(klp_module_target_init);
module_exit(klp_module_target_exit);
MODULE_DESCRIPTION("Livepatch of klp_target with callbacks and a shadow variable");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
