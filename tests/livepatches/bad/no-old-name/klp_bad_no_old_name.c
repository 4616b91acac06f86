// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_no_old_name.c - a livepatch with an entry that names no function
 *
 * Purpose: mark /proc/version.
 *
 * Fault: the second entry has no .old_name. The kernel refuses that with EINVAL, and
 * says nothing in its log.
 */

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/utsname.h>

static int livepatch_version_proc_show(struct seq_file *m, void *v)
{
	seq_printf(m, "%s version %s, livepatched\n", utsname()->sysname,
		   utsname()->release);
	return 0;
}

static int livepatch_cmdline_proc_show(struct seq_file *m, void *v)
{
	seq_puts(m, "livepatched\n");
	return 0;
}

static struct klp_func funcs[] = {
	{
		.old_name = "version_proc_show",
		.new_func = livepatch_version_proc_show,
	}, {
		.new_func = livepatch_cmdline_proc_show,
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

static int __init klp_bad_no_old_name_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_no_old_name_exit(void)
{
}

module_init(klp_bad_no_old_name_init);
module_exit(klp_bad_no_old_name_exit);
MODULE_DESCRIPTION("Livepatch with an entry that names no function");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
