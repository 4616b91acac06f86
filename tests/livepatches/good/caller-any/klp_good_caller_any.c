// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_caller_any.c - a livepatch whose new function answers whoever calls it
 *
 * Purpose: mark /proc/version, whoever asks for it, and count who does.
 */

#include <linux/atomic.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/utsname.h>

static atomic_t asked;

static int livepatch_version_proc_show(struct seq_file *m, void *v)
{
	seq_printf(m, "%s version %s, asked %d times, livepatched\n",
		   utsname()->sysname, utsname()->release,
		   atomic_inc_return(&asked));
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

static int __init klp_good_caller_any_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_good_caller_any_exit(void)
{
}

module_init(klp_good_caller_any_init);
module_exit(klp_good_caller_any_exit);
MODULE_DESCRIPTION("Livepatch whose new function answers whoever calls it");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
