// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_callers_too.c - a livepatch that knows of an inlined function
 *
 * Purpose: fix the answers of klp_inlined.ko. The function that is wrong was
 * inlined, so its callers are replaced; and the function itself as well, which
 * may be called through its address.
 */

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>

static int livepatch_inlined_answer(int from)
{
	return from * 7;
}

static int livepatch_inlined_first(int from)
{
	return livepatch_inlined_answer(from);
}

static int livepatch_inlined_second(int from)
{
	return livepatch_inlined_answer(from + 1);
}

static struct klp_func funcs[] = {
	{
		.old_name = "klp_inlined_answer",
		.new_func = livepatch_inlined_answer,
	}, {
		.old_name = "klp_inlined_first",
		.new_func = livepatch_inlined_first,
	}, {
		.old_name = "klp_inlined_second",
		.new_func = livepatch_inlined_second,
	}, { }
};

static struct klp_object objs[] = {
	{
		.name = "klp_inlined",
		.funcs = funcs,
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_good_callers_too_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_good_callers_too_exit(void)
{
}

module_init(klp_good_callers_too_init);
module_exit(klp_good_callers_too_exit);
MODULE_DESCRIPTION("Livepatch that knows of an inlined function");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
