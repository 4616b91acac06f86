// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_undone_by_nobody.c - the second version of a livepatch, which forgets the first
 *
 * Purpose: take the place of klp_first.ko.
 *
 * Fault: it has no post-unpatch. That of klp_first.ko, which is replaced, does not
 * run, so that nobody changes /proc/sys/kernel/overflowgid back.
 */

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/utsname.h>

static int livepatch_version_proc_show(struct seq_file *m, void *v)
{
	seq_printf(m, "%s version %s, livepatched second\n", utsname()->sysname,
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

static int __init klp_bad_undone_by_nobody_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_undone_by_nobody_exit(void)
{
}

module_init(klp_bad_undone_by_nobody_init);
module_exit(klp_bad_undone_by_nobody_exit);
MODULE_DESCRIPTION("Second version of a livepatch, which forgets the first");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
