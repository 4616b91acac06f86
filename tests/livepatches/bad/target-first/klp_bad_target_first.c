// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_target_first.c - a livepatch whose target must come first
 *
 * Purpose: change what klp_later.ko answers.
 *
 * Fault: pre-patch takes a module that is still being loaded for a broken one,
 * so that its target can no longer be loaded.
 */

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>

static int pre_patch(struct klp_object *obj)
{
	return obj->mod->state == MODULE_STATE_LIVE ? 0 : -EBUSY;
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

static int __init klp_bad_target_first_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_target_first_exit(void)
{
}

module_init(klp_bad_target_first_init);
module_exit(klp_bad_target_first_exit);
MODULE_DESCRIPTION("Livepatch whose target must come first");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
