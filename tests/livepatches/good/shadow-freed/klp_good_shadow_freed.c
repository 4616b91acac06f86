// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_shadow_freed.c - a livepatch that frees its shadow variables
 *
 * Purpose: count how often klp_ext.ko's items are shown, in a shadow field of
 * each. The field goes with its item, and all that are left go in post-unpatch.
 * Items that were never shown have none: freeing it is no fault.
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

static void post_unpatch(struct klp_object *obj)
{
	klp_shadow_free_all(SV_READS, NULL);
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
		.callbacks = {
			.post_unpatch = post_unpatch,
		},
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_good_shadow_freed_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_good_shadow_freed_exit(void)
{
}

module_init(klp_good_shadow_freed_init);
module_exit(klp_good_shadow_freed_exit);
MODULE_DESCRIPTION("Livepatch that frees its shadow variables");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
