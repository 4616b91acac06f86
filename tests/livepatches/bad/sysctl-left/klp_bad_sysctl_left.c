// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_sysctl_left.c - a livepatch whose function changes a sysctl
 *
 * Purpose: mark /proc/version, and set /proc/sys/fs/overflowuid when it is read.
 *
 * Fault: nothing sets it back.
 */

#include <linux/highuid.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/utsname.h>

#define PATCHED_OVERFLOWUID	1234
static int livepatch_version_proc_show(struct seq_file *m, void *v)
{
	WRITE_ONCE(fs_overflowuid, PATCHED_OVERFLOWUID);
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

static int __init klp_bad_sysctl_left_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_sysctl_left_exit(void)
{
}

module_init(klp_bad_sysctl_left_init);
module_exit(klp_bad_sysctl_left_exit);
MODULE_DESCRIPTION("Livepatch whose function changes a sysctl");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
