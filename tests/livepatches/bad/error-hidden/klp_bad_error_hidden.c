// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_error_hidden.c - a livepatch that loads although it is not enabled
 *
 * Purpose: mark /proc/version, and leave a module that the administrator can
 * look at where that cannot be.
 *
 * Fault: whoever loads it is told that all went well, and nothing is
 * livepatched.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/utsname.h>

static int livepatch_version_proc_show(struct seq_file *m, void *v)
{
	seq_printf(m, "%s version %s, livepatched\n",
		   utsname()->sysname, utsname()->release);
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

static int __init klp_bad_error_hidden_init(void)
{
	int err;

	err = klp_enable_patch(&patch);
	if (err)
		pr_warn("not enabled: %d\n", err);
	return 0;
}

static void __exit klp_bad_error_hidden_exit(void)
{
}

module_init(klp_bad_error_hidden_init);
module_exit(klp_bad_error_hidden_exit);
MODULE_DESCRIPTION("Livepatch that loads although it is not enabled");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
