// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_target_needed.c - a livepatch that needs its target
 *
 * Purpose: change what klp_later.ko answers.
 *
 * Fault: it refuses to be loaded where that is not there, although its
 * functions would be changed when it comes.
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

static int __init klp_bad_target_needed_init(void)
{
	struct path path;
	int err;

	err = kern_path("/sys/module/klp_later", LOOKUP_FOLLOW, &path);
	if (err)
		return err;
	path_put(&path);
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_target_needed_exit(void)
{
}

module_init(klp_bad_target_needed_init);
module_exit(klp_bad_target_needed_exit);
MODULE_DESCRIPTION("Livepatch that needs its target");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
