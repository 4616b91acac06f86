// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_asymmetric.c - a livepatch whose callbacks are no pairs
 *
 * Purpose: change /proc/sys/kernel/overflowuid, beside a function of
 * klp_holder.ko in which tasks may sleep, so that a transition can be long
 * enough to be reversed.
 *
 * Fault: what pre-patch does is undone in pre-unpatch. That runs only after
 * post-patch did: a transition that is reversed, or refused by another object,
 * runs post-unpatch alone, which is pre-patch's counterpart.
 */

#include <linux/highuid.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>

#include "klp_holder.h"

#define PATCHED_OVERFLOWUID	1234

static int saved;

static int pre_patch(struct klp_object *obj)
{
	saved = overflowuid;
	overflowuid = PATCHED_OVERFLOWUID;
	return 0;
}

static void pre_unpatch(struct klp_object *obj)
{
	overflowuid = saved;
}

static void livepatch_holder_sleep(struct klp_holder *holder)
{
	klp_holder_do_sleep(holder);
}

static struct klp_func no_funcs[] = {
	{ }
};

static struct klp_func holder_funcs[] = {
	{
		.old_name = "klp_holder_sleep",
		.new_func = livepatch_holder_sleep,
	}, { }
};

static struct klp_object objs[] = {
	{
		/* name being NULL means vmlinux */
		.funcs = no_funcs,
		.callbacks = {
			.pre_patch = pre_patch,
			.pre_unpatch = pre_unpatch,
		},
	}, {
		.name = "klp_holder",
		.funcs = holder_funcs,
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_bad_asymmetric_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_asymmetric_exit(void)
{
}

module_init(klp_bad_asymmetric_init);
module_exit(klp_bad_asymmetric_exit);
MODULE_DESCRIPTION("Livepatch whose callbacks are no pairs");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
