// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_shadow_leak.c - a livepatch that leaks shadow variables
 *
 * Purpose: count how often klp_ext.ko's items are shown, in a shadow field of
 * each.
 *
 * Fault: the field goes with its item, but an item may well live longer than
 * the livepatch, and there is no post-unpatch callback that frees all fields.
 */

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/slab.h>

#include "klp_ext.h"

static void livepatch_ext_free(struct klp_ext_item *item)
{
	klp_shadow_free(item, SV_READS, NULL);
	kfree(item);
}

static void livepatch_ext_print(struct seq_file *m, struct klp_ext_item *item)
{
	int *reads;

	reads = klp_shadow_get_or_alloc(item, SV_READS, sizeof(*reads),
					GFP_KERNEL, NULL, NULL);
	seq_printf(m, "item %d", item->number);
	if (reads)
		seq_printf(m, " reads %d", ++*reads);
	seq_putc(m, '\n');
}

static struct klp_func funcs[] = {
	{
		.old_name = "klp_ext_free",
		.new_func = livepatch_ext_free,
	}, {
		.old_name = "klp_ext_print",
		.new_func = livepatch_ext_print,
	}, { }
};

static struct klp_object objs[] = {
	{
		.name = "klp_ext",
		.funcs = funcs,
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_bad_shadow_leak_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_shadow_leak_exit(void)
{
}

module_init(klp_bad_shadow_leak_init);
module_exit(klp_bad_shadow_leak_exit);
MODULE_DESCRIPTION("Livepatch that leaks shadow variables");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
