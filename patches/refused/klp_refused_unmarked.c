// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_refused_unmarked.c - a livepatch that does not say that it is one
 *
 * Purpose: be refused for want of MODULE_INFO(livepatch, "Y"), and for
 * nothing else.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>

static struct klp_object objs[] = {
	{ }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_refused_unmarked_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_refused_unmarked_exit(void)
{
}

module_init(klp_refused_unmarked_init);
module_exit(klp_refused_unmarked_exit);
MODULE_DESCRIPTION("Livepatch that does not say that it is one");
MODULE_LICENSE("GPL");
