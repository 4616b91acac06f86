// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_callbacks_alone.c - a livepatch that has callbacks alone
 *
 * Purpose: change /proc/sys/kernel/overflowuid by callbacks alone.
 *
 * An empty array of functions has the kernel see the object.
 */

#include <linux/highuid.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>

#define PATCHED_OVERFLOWUID	1234

static int saved;

static struct klp_func funcs[] = { { } };

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
		.funcs = funcs,
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

static int __init klp_good_callbacks_alone_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_good_callbacks_alone_exit(void)
{
}

module_init(klp_good_callbacks_alone_init);
module_exit(klp_good_callbacks_alone_exit);
MODULE_DESCRIPTION("Livepatch that has callbacks alone");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
