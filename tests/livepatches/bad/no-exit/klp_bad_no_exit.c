// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_no_exit.c - a livepatch without an exit function
 *
 * Purpose: mark /proc/version.
 *
 * Fault: a module that has an init function and none for its exit can never be
 * removed.
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

static int __init klp_bad_no_exit_init(void)
{
	return klp_enable_patch(&patch);
}

module_init(klp_bad_no_exit_init);
MODULE_DESCRIPTION("Livepatch without an exit function");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
