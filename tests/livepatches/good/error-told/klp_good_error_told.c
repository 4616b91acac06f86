// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_error_told.c - a livepatch that says so where it is not enabled
 *
 * Purpose: mark /proc/version, and say in the kernel log why it does not,
 * where it does not.
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

static int __init klp_good_error_told_init(void)
{
	int err;

	err = klp_enable_patch(&patch);
	if (err)
		pr_warn("not enabled: %d\n", err);
	return err;
}

static void __exit klp_good_error_told_exit(void)
{
}

module_init(klp_good_error_told_init);
module_exit(klp_good_error_told_exit);
MODULE_DESCRIPTION("Livepatch that says so where it is not enabled");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
