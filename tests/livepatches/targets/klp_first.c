// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_first.c - the first version of a livepatch, with callbacks
 *
 * Purpose: mark /proc/version, and have /proc/sys/kernel/overflowgid changed by
 * pre-patch, and changed back by post-unpatch.
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
	overflowgid = PATCHED_OVERFLOWGID;
	return 0;
}

static void post_unpatch(struct klp_object *obj)
{
	overflowgid = DEFAULT_OVERFLOWGID;
}

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

static int __init klp_first_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_first_exit(void)
{
}

module_init(klp_first_init);
module_exit(klp_first_exit);
MODULE_DESCRIPTION("First version of a livepatch, with callbacks");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
