// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_layer_three.c - the third of three livepatches that overlap
 *
 * Purpose: make all three functions of klp_layers.ko answer 3 more, upon
 * klp_layer_one.ko and klp_layer_two.ko. With fail=ERRNO its pre-patch callback
 * refuses klp_layers.ko, after those below have changed it.
 *
 * Usage:
 *
 *   # insmod klp_layers.ko
 *   # insmod klp_layer_one.ko; insmod klp_layer_two.ko; insmod klp_layer_three.ko
 *   # cat /proc/klp_layers
 *   a=13 b=23 c=33
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>

static unsigned int fail;
module_param(fail, uint, 0644);
MODULE_PARM_DESC(fail, "errno with which klp_layers' pre-patch fails");

static int livepatch_layers_a(int from)
{
	return from + 13;
}

static int livepatch_layers_b(int from)
{
	return from + 23;
}

static int livepatch_layers_c(int from)
{
	return from + 33;
}

static int pre_patch(struct klp_object *obj)
{
	return -(int)READ_ONCE(fail);
}

static struct klp_func funcs[] = {
	{
		.old_name = "klp_layers_a",
		.new_func = livepatch_layers_a,
	}, {
		.old_name = "klp_layers_b",
		.new_func = livepatch_layers_b,
	}, {
		.old_name = "klp_layers_c",
		.new_func = livepatch_layers_c,
	}, { }
};

static struct klp_object objs[] = {
	{
		.name = "klp_layers",
		.funcs = funcs,
		.callbacks = {
			.pre_patch = pre_patch,
		},
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_layer_three_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_layer_three_exit(void)
{
}

module_init(klp_layer_three_init);
module_exit(klp_layer_three_exit);
MODULE_DESCRIPTION("Livepatch of all of klp_layers' functions");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
