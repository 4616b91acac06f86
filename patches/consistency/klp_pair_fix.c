// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_pair_fix.c - livepatch of two functions that must change together
 *
 * Purpose: change the format in which klp_pair.ko's functions hand a value to
 * each other. Neither new function understands the other's old one, so
 * /proc/klp_pair counts a "mixed" round if the kernel ever lets a task run one
 * of each.
 *
 * Usage:
 *
 *   # insmod klp_pair.ko
 *   # insmod klp_pair_fix.ko
 *   # cat /proc/klp_pair
 *   old 132 new 17 mixed 0
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>

#include "klp_pair.h"

static enum klp_pair_outcome livepatch_pair_open(struct klp_pair *pair)
{
	if (pair->sealed != pair->value * 5)
		return KLP_PAIR_MIXED;
	return KLP_PAIR_NEW;
}

/* Calls the old function's address, as all callers do: ftrace redirects it. */
static enum klp_pair_outcome livepatch_pair_seal(struct klp_pair *pair)
{
	pair->sealed = pair->value * 5;
	klp_pair_pause(pair);
	return pair->open(pair);
}

static struct klp_func funcs[] = {
	{
		.old_name = "klp_pair_seal",
		.new_func = livepatch_pair_seal,
	}, {
		.old_name = "klp_pair_open",
		.new_func = livepatch_pair_open,
	}, { }
};

static struct klp_object objs[] = {
	{
		.name = "klp_pair",
		.funcs = funcs,
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_pair_fix_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_pair_fix_exit(void)
{
}

module_init(klp_pair_fix_init);
module_exit(klp_pair_fix_exit);
MODULE_DESCRIPTION("Livepatch of two functions that must change together");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
