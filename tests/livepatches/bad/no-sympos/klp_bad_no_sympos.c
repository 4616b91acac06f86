// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_no_sympos.c - a livepatch that does not say which of two functions
 *
 * Purpose: fix the first of klp_refused_target.ko's two klp_refused_twin().
 *
 * Fault: there is no .old_sympos, and the kernel does not guess.
 */

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>

/* The twin that adds 10 is meant. */
static int livepatch_refused_twin(int from)
{
	return from + 11;
}

static struct klp_func funcs[] = {
	{
		.old_name = "klp_refused_twin",
		.new_func = livepatch_refused_twin,
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

static int __init klp_bad_no_sympos_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_no_sympos_exit(void)
{
}

module_init(klp_bad_no_sympos_init);
module_exit(klp_bad_no_sympos_exit);
MODULE_DESCRIPTION("Livepatch that does not say which of two functions");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
