// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_undone_by_next.c - the second version of a livepatch, which thinks of the first
 *
 * Purpose: take the place of klp_first.ko, and undo what that set up.
 */

#include <linux/highuid.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/utsname.h>

static void post_unpatch(struct klp_object *obj)
{
	overflowgid = DEFAULT_OVERFLOWGID;
}

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
		.callbacks = {
			.post_unpatch = post_unpatch,
		},
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
	.replace = true,
};

static int __init klp_good_undone_by_next_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_good_undone_by_next_exit(void)
{
}

module_init(klp_good_undone_by_next_init);
module_exit(klp_good_undone_by_next_exit);
MODULE_DESCRIPTION("Second version of a livepatch, which thinks of the first");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
