// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_two_functions.c - a livepatch of two functions
 *
 * Purpose: mark /proc/version and /proc/cmdline.
 *
 * Both stand in one array, each once.
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
		.old_name = "cmdline_proc_show",
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

static int __init klp_good_two_functions_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_good_two_functions_exit(void)
{
}

module_init(klp_good_two_functions_init);
module_exit(klp_good_two_functions_exit);
MODULE_DESCRIPTION("Livepatch of two functions");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
