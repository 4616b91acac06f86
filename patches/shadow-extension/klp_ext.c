// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_ext.c - items that livepatches extend by shadow fields
 *
 * Purpose: have objects that are made, shown and freed by functions that can
 * be livepatched. Writing to the parameter "items" makes or frees items until
 * there are that many; /proc/klp_ext shows them, a line each.
 *
 * Usage:
 *
 *   # insmod klp_ext.ko items=2
 *   # cat /proc/klp_ext
 *   item 1
 *   item 2
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kernel.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/slab.h>

#include "klp_ext.h"

#define PROC_NAME "klp_ext"

static DEFINE_MUTEX(items_lock);
static LIST_HEAD(all);
static unsigned int items;
static unsigned int present;

static noinline __noclone struct klp_ext_item *klp_ext_make(int number)
{
	struct klp_ext_item *item = kzalloc(sizeof(*item), GFP_KERNEL);

	if (item)
		item->number = number;
	return item;
}

static noinline __noclone void klp_ext_free(struct klp_ext_item *item)
{
	kfree(item);
}

static noinline __noclone void klp_ext_print(struct seq_file *m,
					     struct klp_ext_item *item)
{
	seq_printf(m, "item %d\n", item->number);
}

static int klp_ext_adjust(unsigned int wanted)
{
	struct klp_ext_item *item;
	int err = 0;

	mutex_lock(&items_lock);
	while (present < wanted && !err) {
		item = klp_ext_make(present + 1);
		if (item) {
			list_add_tail(&item->list, &all);
			present++;
		} else {
			err = -ENOMEM;
		}
	}
	while (present > wanted) {
		item = list_last_entry(&all, struct klp_ext_item, list);
		list_del(&item->list);
		klp_ext_free(item);
		present--;
	}
	mutex_unlock(&items_lock);
	return err;
}

static int items_set(const char *val, const struct kernel_param *kp)
{
	int err = param_set_uint(val, kp);

	return err ?: klp_ext_adjust(items);
}

static const struct kernel_param_ops items_ops = {
	.set = items_set,
	.get = param_get_uint,
};

module_param_cb(items, &items_ops, &items, 0644);
MODULE_PARM_DESC(items, "how many items there are");

static int klp_ext_show(struct seq_file *m, void *v)
{
	struct klp_ext_item *item;

	mutex_lock(&items_lock);
	list_for_each_entry(item, &all, list)
		klp_ext_print(m, item);
	mutex_unlock(&items_lock);
	return 0;
}

static int __init klp_ext_init(void)
{
	if (proc_create_single(PROC_NAME, 0444, NULL, klp_ext_show))
		return 0;
	klp_ext_adjust(0);
	return -ENOMEM;
}

static void __exit klp_ext_exit(void)
{
	remove_proc_entry(PROC_NAME, NULL);
	klp_ext_adjust(0);
}

module_init(klp_ext_init);
module_exit(klp_ext_exit);
MODULE_DESCRIPTION("Items that livepatches extend by shadow fields");
MODULE_LICENSE("GPL");
