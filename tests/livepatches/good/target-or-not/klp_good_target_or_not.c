// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_target_or_not.c - a livepatch that waits for its target
 *
 * Purpose: change what klp_later.ko answers, and say in the log whether that
 * is there.
 */

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/namei.h>
#include <linux/path.h>

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

static int __init klp_good_target_or_not_init(void)
{
	struct path path;

	if (kern_path("/sys/module/klp_later", LOOKUP_FOLLOW, &path))
		pr_info("klp_later will be changed when it comes\n");
	else
		path_put(&path);
	return klp_enable_patch(&patch);
}

static void __exit klp_good_target_or_not_exit(void)
{
}

module_init(klp_good_target_or_not_init);
module_exit(klp_good_target_or_not_exit);
MODULE_DESCRIPTION("Livepatch that waits for its target");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
