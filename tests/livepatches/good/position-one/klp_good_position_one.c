// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_position_one.c - a livepatch that gives the position of an only function
 *
 * Purpose: mark /proc/version.
 *
 * A function of an only name may have the position 1 as well as 0.
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
		.old_sympos = 1,
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

static int __init klp_good_position_one_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_good_position_one_exit(void)
{
}

module_init(klp_good_position_one_init);
module_exit(klp_good_position_one_exit);
MODULE_DESCRIPTION("Livepatch that gives the position of an only function");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
