// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_both_twins.c - a livepatch of both functions of one name
 *
 * Purpose: change each klp_refused_twin() of klp_refused_target.ko. Neither a kprobe
 * nor a tracer can be told by name alone which one is meant.
 */

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>

static int livepatch_first_twin(int from)
{
	return from + 11;
}

static int livepatch_second_twin(int from)
{
	return from + 21;
}

static struct klp_func funcs[] = {
	{
		.old_name = "klp_refused_twin",
		.new_func = livepatch_first_twin,
		.old_sympos = 1,
	}, {
		.old_name = "klp_refused_twin",
		.new_func = livepatch_second_twin,
		.old_sympos = 2,
	}, { }
};

static struct klp_object objs[] = {
	{
		.name = "klp_refused_target",
		.funcs = funcs,
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_good_both_twins_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_good_both_twins_exit(void)
{
}

module_init(klp_good_both_twins_init);
module_exit(klp_good_both_twins_exit);
MODULE_DESCRIPTION("Livepatch of both functions of one name");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
