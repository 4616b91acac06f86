// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_right_sympos.c - a livepatch of the right one of two functions
 *
 * Purpose: fix the first of klp_refused_target.ko's two klp_refused_twin(), and
 * say by .old_sympos which one it is.
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
		.old_sympos = 1,
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

static int __init klp_good_right_sympos_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_good_right_sympos_exit(void)
{
}

module_init(klp_good_right_sympos_init);
module_exit(klp_good_right_sympos_exit);
MODULE_DESCRIPTION("Livepatch of the right one of two functions");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
