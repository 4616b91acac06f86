// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_no_funcs.c - a livepatch with callbacks that never run
 *
 * Purpose: change /proc/sys/kernel/overflowuid by callbacks alone.
 *
 * Fault: .funcs is left out, since no function is changed. An entry that has neither
 * name nor funcs is the end of the array: the kernel sees no object at all.
 */

#include <linux/highuid.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>

#define PATCHED_OVERFLOWUID	1234

static int saved;

static int pre_patch(struct klp_object *obj)
{
	saved = overflowuid;
	overflowuid = PATCHED_OVERFLOWUID;
	return 0;
}

static void post_unpatch(struct klp_object *obj)
{
	overflowuid = saved;
}

static struct klp_object objs[] = {
	{
		/* name being NULL means vmlinux */
		.callbacks = {
			.pre_patch = pre_patch,
			.post_unpatch = post_unpatch,
		},
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_bad_no_funcs_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_no_funcs_exit(void)
{
}

module_init(klp_bad_no_funcs_init);
module_exit(klp_bad_no_funcs_exit);
MODULE_DESCRIPTION("Livepatch with callbacks that never run");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
