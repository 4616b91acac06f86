// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_older.c - the first version of a cumulative livepatch
 *
 * Purpose: change what /proc/version shows.
 */

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/utsname.h>

static int livepatch_version_proc_show(struct seq_file *m, void *v)
{
	seq_printf(m, "%s version %s, livepatched first\n", utsname()->sysname,
		   utsname()->release);
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
	.replace = true,
};

static int __init klp_older_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_older_exit(void)
{
}

module_init(klp_older_init);
module_exit(klp_older_exit);
MODULE_DESCRIPTION("First version of a cumulative livepatch");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
