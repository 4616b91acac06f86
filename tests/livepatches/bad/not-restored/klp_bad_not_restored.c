// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_not_restored.c - a livepatch that does not put back what it changed
 *
 * Purpose: change /proc/sys/kernel/overflowgid.
 *
 * Fault: nothing changes it back.
 */

#include <linux/highuid.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>

#define PATCHED_OVERFLOWGID	1234

static void post_patch(struct klp_object *obj)
{
	overflowgid = PATCHED_OVERFLOWGID;
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
		},
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_bad_not_restored_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_not_restored_exit(void)
{
}

module_init(klp_bad_not_restored_init);
module_exit(klp_bad_not_restored_exit);
MODULE_DESCRIPTION("Livepatch that does not put back what it changed");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
