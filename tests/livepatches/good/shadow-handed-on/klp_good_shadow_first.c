// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_shadow_first.c - a livepatch that leaves shadow variables to the next
 *
 * Purpose: count how often klp_ext.ko's items are shown, in a shadow field of
 * each. The fields are left on purpose: klp_good_shadow_last.ko, which replaces
 * this livepatch, goes on counting in them and frees them.
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

static int __init klp_good_shadow_first_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_good_shadow_first_exit(void)
{
}

module_init(klp_good_shadow_first_init);
module_exit(klp_good_shadow_first_exit);
MODULE_DESCRIPTION("Livepatch that leaves shadow variables to the next");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
