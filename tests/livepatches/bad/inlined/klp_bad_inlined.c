// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_inlined.c - a livepatch that changes nothing
 *
 * Purpose: fix the answers of klp_inlined.ko.
 *
 * Fault: klp_inlined_answer() is short, and the compiler has put it into its
 * callers. It is there to be replaced all the same, for somebody takes its
 * address; nobody calls it.
 */

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>

static int livepatch_inlined_answer(int from)
{
	return from * 7;
}

static struct klp_func funcs[] = {
	{
		.old_name = "klp_inlined_answer",
		.new_func = livepatch_inlined_answer,
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

static int __init klp_bad_inlined_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_inlined_exit(void)
{
}

module_init(klp_bad_inlined_init);
module_exit(klp_bad_inlined_exit);
MODULE_DESCRIPTION("Livepatch that changes nothing");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
