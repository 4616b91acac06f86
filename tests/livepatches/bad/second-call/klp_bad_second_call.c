// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_second_call.c - a livepatch whose new function works once
 *
 * Purpose: mark /proc/version, and count its readers.
 *
 * Fault: the first reader frees what the second one counts with.
 */

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/utsname.h>

struct readers {
	unsigned int count;
};

static struct readers *readers;
static bool made;

static int livepatch_version_proc_show(struct seq_file *m, void *v)
{
	if (!made) {
		readers = kzalloc(sizeof(*readers), GFP_KERNEL);
		if (!readers)
			return -ENOMEM;
		made = true;
	}

	seq_printf(m, "%s version %s, reader %u, livepatched\n",
		   utsname()->sysname, utsname()->release, ++readers->count);
	kfree(readers);
	readers = NULL;
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
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_bad_second_call_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_second_call_exit(void)
{
}

module_init(klp_bad_second_call_init);
module_exit(klp_bad_second_call_exit);
MODULE_DESCRIPTION("Livepatch whose new function works once");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
