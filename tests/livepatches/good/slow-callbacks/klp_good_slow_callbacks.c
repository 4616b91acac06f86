// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_slow_callbacks.c - a livepatch whose callbacks take their time
 *
 * Purpose: have every callback sleep for half a second, as one may that waits
 * for a device.
 */

#include <linux/delay.h>
#include <linux/highuid.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>

#define PATCHED_OVERFLOWGID	1234

static int saved;

static int pre_patch(struct klp_object *obj)
{
	msleep(500);
	return 0;
}

static void post_patch(struct klp_object *obj)
{
	msleep(500);
	saved = overflowgid;
	overflowgid = PATCHED_OVERFLOWGID;
}

static void pre_unpatch(struct klp_object *obj)
{
	msleep(500);
	overflowgid = saved;
}

static void post_unpatch(struct klp_object *obj)
{
	msleep(500);
}

static struct klp_func no_funcs[] = {
	{ }
};

static struct klp_object objs[] = {
	{
		/* name being NULL means vmlinux */
		.funcs = no_funcs,
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

static int __init klp_good_slow_callbacks_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_good_slow_callbacks_exit(void)
{
}

module_init(klp_good_slow_callbacks_init);
module_exit(klp_good_slow_callbacks_exit);
MODULE_DESCRIPTION("Livepatch whose callbacks take their time");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
