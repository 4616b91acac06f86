// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_object_later.c - a livepatch of a module that comes later
 *
 * Purpose: change what klp_later.ko answers, whenever it is loaded.
 */

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>

static int livepatch_later_answer(int from)
{
	return from * 6;
}

static struct klp_func funcs[] = {
	{
		.old_name = "klp_later_answer",
		.new_func = livepatch_later_answer,
	}, { }
};

static struct klp_object objs[] = {
	{
		.name = "klp_later",
		.funcs = funcs,
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_good_object_later_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_good_object_later_exit(void)
{
}

module_init(klp_good_object_later_init);
module_exit(klp_good_object_later_exit);
MODULE_DESCRIPTION("Livepatch of a module that comes later");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
