// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_prepatch_leftover.c - a pre-patch callback that fails too late
 *
 * Purpose: change /proc/sys/kernel/overflowuid, on machines that have a driver
 * "klp_nowhere".
 *
 * Fault: pre-patch looks for the driver after it has made the change. When it
 * fails, none of the other callbacks runs, and the change stays.
 */

#include <linux/device.h>
#include <linux/highuid.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/platform_device.h>

#define PATCHED_OVERFLOWUID	1234

static int saved;

static int pre_patch(struct klp_object *obj)
{
	saved = overflowuid;
	overflowuid = PATCHED_OVERFLOWUID;

	if (!driver_find("klp_nowhere", &platform_bus_type))
		return -ENODEV;
	return 0;
}

static void post_unpatch(struct klp_object *obj)
{
	overflowuid = saved;
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
			.post_unpatch = post_unpatch,
		},
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_bad_prepatch_leftover_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_prepatch_leftover_exit(void)
{
}

module_init(klp_bad_prepatch_leftover_init);
module_exit(klp_bad_prepatch_leftover_exit);
MODULE_DESCRIPTION("Livepatch with a pre-patch callback that fails too late");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
