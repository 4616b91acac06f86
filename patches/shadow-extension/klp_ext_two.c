// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_ext_two.c - the second, cumulative livepatch that extends klp_ext's items
 *
 * Purpose: take over the shadow field of klp_ext_one.ko with its values, give
 * it to the items that were made before any livepatch as well, and add another
 * one, with constructor and destructor, that remembers the last reader.
 *
 * Usage:
 *
 *   # insmod klp_ext_two.ko
 *   # cat /proc/klp_ext
 *   item 1 reads 1 last cat
 *   item 2 reads 2 last cat
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "klp_ext.h"

struct last {
	char comm[TASK_COMM_LEN];
};

static unsigned int forgotten;

static int last_ctor(void *obj, void *shadow_data, void *ctor_data)
{
	struct last *last = shadow_data;

	strscpy(last->comm, "nobody", sizeof(last->comm));
	return 0;
}

static void last_dtor(void *obj, void *shadow_data)
{
	forgotten++;
}

static void livepatch_ext_free(struct klp_ext_item *item)
{
	klp_shadow_free(item, SV_LAST, last_dtor);
	klp_shadow_free(item, SV_READS, NULL);
	kfree(item);
}

static void livepatch_ext_print(struct seq_file *m, struct klp_ext_item *item)
{
	struct last *last;
	int *reads;

	reads = klp_shadow_get_or_alloc(item, SV_READS, sizeof(*reads),
					GFP_KERNEL, NULL, NULL);
	last = klp_shadow_get_or_alloc(item, SV_LAST, sizeof(*last), GFP_KERNEL,
				       last_ctor, NULL);
	seq_printf(m, "item %d", item->number);
	if (reads && last) {
		get_task_comm(last->comm, current);
		seq_printf(m, " reads %d last %s", ++*reads, last->comm);
	}
	seq_putc(m, '\n');
}

static void post_unpatch(struct klp_object *obj)
{
	klp_shadow_free_all(SV_LAST, last_dtor);
	klp_shadow_free_all(SV_READS, NULL);
	pr_info("forgot %u last readers\n", forgotten);
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

static int __init klp_ext_two_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_ext_two_exit(void)
{
}

module_init(klp_ext_two_init);
module_exit(klp_ext_two_exit);
MODULE_DESCRIPTION("Second, cumulative livepatch that extends klp_ext's items");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
