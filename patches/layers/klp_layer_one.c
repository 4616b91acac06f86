// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_layer_one.c - the first of three livepatches that overlap
 *
 * Purpose: make klp_layers_a() and klp_layers_b() of klp_layers.ko answer 1
 * more. With replace=1 it is cumulative: it takes the place of all livepatches
 * that are enabled, and what they changed besides is as it was.
 *
 * Usage:
 *
 *   # insmod klp_layers.ko
 *   # insmod klp_layer_one.ko
 *   # cat /proc/klp_layers
 *   a=11 b=21 c=30
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>

static bool replace;
module_param(replace, bool, 0444);
MODULE_PARM_DESC(replace, "replace all livepatches that are enabled");

static int livepatch_layers_a(int from)
{
	return from + 11;
}

static int livepatch_layers_b(int from)
{
	return from + 21;
}

static struct klp_func funcs[] = {
	{
		.old_name = "klp_layers_a",
		.new_func = livepatch_layers_a,
	}, {
		.old_name = "klp_layers_b",
		.new_func = livepatch_layers_b,
	}, { }
};

static struct klp_object objs[] = {
	{
		.name = "klp_layers",
		.funcs = funcs,
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_layer_one_init(void)
{
	patch.replace = replace;
	return klp_enable_patch(&patch);
}

static void __exit klp_layer_one_exit(void)
{
}

module_init(klp_layer_one_init);
module_exit(klp_layer_one_exit);
MODULE_DESCRIPTION("Livepatch of two of klp_layers' functions");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
