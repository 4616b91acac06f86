// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_shadow_last.c - a livepatch that frees what another left
 *
 * Purpose: replace klp_good_shadow_first.ko, and show what it has counted, but
 * count no longer. No item gets a new field; those that are there are freed
 * with their items, or with this livepatch.
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
	int *reads = klp_shadow_get(item, SV_READS);

	seq_printf(m, "item %d", item->number);
	if (reads)
		seq_printf(m, " had %d reads", *reads);
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
	.replace = true,
};

static int __init klp_good_shadow_last_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_good_shadow_last_exit(void)
{
}

module_init(klp_good_shadow_last_init);
module_exit(klp_good_shadow_last_exit);
MODULE_DESCRIPTION("Livepatch that frees what another left");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
