// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_once_only.c - a livepatch that can be enabled once
 *
 * Purpose: mark /proc/version, and change /proc/sys/kernel/overflowgid.
 *
 * Fault: nothing puts the sysctl back, and pre-patch takes what it finds for
 * another's work: the second time it refuses.
 */

#include <linux/highuid.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/utsname.h>

#define PATCHED_OVERFLOWGID	1234

static int pre_patch(struct klp_object *obj)
{
	if (overflowgid == PATCHED_OVERFLOWGID)
		return -EBUSY;
	overflowgid = PATCHED_OVERFLOWGID;
	return 0;
}

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
		.callbacks = {
			.pre_patch = pre_patch,
		},
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_bad_once_only_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_once_only_exit(void)
{
}

module_init(klp_bad_once_only_init);
module_exit(klp_bad_once_only_exit);
MODULE_DESCRIPTION("Livepatch that can be enabled once");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
