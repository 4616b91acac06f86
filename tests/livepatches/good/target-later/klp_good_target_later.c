// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_target_later.c - a livepatch whose target may come later
 *
 * Purpose: change what klp_later.ko answers, and say in the log whether that
 * was there before.
 */

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>

static int pre_patch(struct klp_object *obj)
{
	pr_info("%s is %s\n", obj->name,
		obj->mod->state == MODULE_STATE_LIVE ? "there" : "coming");
	return 0;
}

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
		.callbacks = {
			.pre_patch = pre_patch,
		},
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_good_target_later_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_good_target_later_exit(void)
{
}

module_init(klp_good_target_later_init);
module_exit(klp_good_target_later_exit);
MODULE_DESCRIPTION("Livepatch whose target may come later");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
