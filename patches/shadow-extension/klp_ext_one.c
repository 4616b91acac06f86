// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_ext_one.c - the first livepatch that extends klp_ext's items
 *
 * Purpose: give each item that is made from now on a shadow field that counts
 * how often the item was shown. Items that are there already have none.
 *
 * Usage:
 *
 *   # insmod klp_ext.ko items=1; insmod klp_ext_one.ko
 *   # echo 2 > /sys/module/klp_ext/parameters/items
 *   # cat /proc/klp_ext
 *   item 1
 *   item 2 reads 1
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/slab.h>

#include "klp_ext.h"

static struct klp_ext_item *livepatch_ext_make(int number)
{
	struct klp_ext_item *item = kzalloc(sizeof(*item), GFP_KERNEL);

	if (!item)
		return NULL;

	item->number = number;
	if (!klp_shadow_alloc(item, SV_READS, sizeof(int), GFP_KERNEL, NULL,
			      NULL)) {
		kfree(item);
		return NULL;
	}
	return item;
}

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
		seq_printf(m, " reads %d", ++*reads);
	seq_putc(m, '\n');
}

/* Not called when another livepatch replaces this one: then that owns them. */
static void post_unpatch(struct klp_object *obj)
{
	klp_shadow_free_all(SV_READS, NULL);
}

static struct klp_func funcs[] = {
	{
		.old_name = "klp_ext_make",
		.new_func = livepatch_ext_make,
	}, {
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

static int __init klp_ext_one_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_ext_one_exit(void)
{
}

module_init(klp_ext_one_init);
module_exit(klp_ext_one_exit);
MODULE_DESCRIPTION("First livepatch that extends klp_ext's items");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
