// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_layer_none.c - a cumulative livepatch that changes nothing
 *
 * Purpose: bring every function back to what it was by an atomic replace: the
 * kernel adds a no-op for each function that an enabled livepatch changes.
 *
 * Usage:
 *
 *   # insmod klp_layers.ko; insmod klp_layer_one.ko; insmod klp_layer_none.ko
 *   # cat /proc/klp_layers
 *   a=10 b=20 c=30
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>

static struct klp_object objs[] = {
	{ }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
	.replace = true,
};

static int __init klp_layer_none_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_layer_none_exit(void)
{
}

module_init(klp_layer_none_init);
module_exit(klp_layer_none_exit);
MODULE_DESCRIPTION("Cumulative livepatch that changes nothing");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
