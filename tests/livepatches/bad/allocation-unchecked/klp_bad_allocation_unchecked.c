// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_allocation_unchecked.c - a livepatch whose callback trusts in memory
 *
 * Purpose: mark /proc/version with words that pre-patch sets up.
 *
 * Fault: where there is no memory for them pre-patch writes to a null pointer.
 */

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/utsname.h>

struct banner {
	char text[64];
};

static struct banner *banner;

static int pre_patch(struct klp_object *obj)
{
	banner = kmalloc(sizeof(*banner), GFP_KERNEL);
	strscpy(banner->text, "livepatched", sizeof(banner->text));
	return 0;
}

static void post_unpatch(struct klp_object *obj)
{
	kfree(banner);
	banner = NULL;
}

static int livepatch_version_proc_show(struct seq_file *m, void *v)
{
	seq_printf(m, "%s version %s, %s\n", utsname()->sysname,
		   utsname()->release, banner->text);
	return 0;
}

static struct klp_func funcs[] = {
	{
		.old_name = "version_proc_show",
		.new_func = livepatch_version_proc_show,
	}, { }
};

static struct klp_object objs[] = {
	{
		/* name being NULL means vmlinux */
		.funcs = funcs,
		.callbacks = {
			.pre_patch = pre_patch,
			.post_unpatch = post_unpatch,
		},
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_bad_allocation_unchecked_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_allocation_unchecked_exit(void)
{
}

module_init(klp_bad_allocation_unchecked_init);
module_exit(klp_bad_allocation_unchecked_exit);
MODULE_DESCRIPTION("Livepatch whose callback trusts in memory");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
