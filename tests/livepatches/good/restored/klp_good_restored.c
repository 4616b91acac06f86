// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_restored.c - a livepatch that puts back what it changed
 *
 * Purpose: change /proc/sys/kernel/overflowgid in post-patch, and change it back
 * in pre-unpatch: both run or none.
 */

#include <linux/highuid.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>

#define PATCHED_OVERFLOWGID	1234

static int saved;

static void post_patch(struct klp_object *obj)
{
	saved = overflowgid;
	overflowgid = PATCHED_OVERFLOWGID;
}

static void pre_unpatch(struct klp_object *obj)
{
	overflowgid = saved;
}

static struct klp_func no_funcs[] = {
	{ }
};

static struct klp_object objs[] = {
	{
		/* name being NULL means vmlinux */
		.funcs = no_funcs,
		.callbacks = {
			.post_patch = post_patch,
			.pre_unpatch = pre_unpatch,
		},
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_good_restored_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_good_restored_exit(void)
{
}

module_init(klp_good_restored_init);
module_exit(klp_good_restored_exit);
MODULE_DESCRIPTION("Livepatch that puts back what it changed");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
