// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_several.c - one livepatch of vmlinux and two modules
 *
 * Purpose: patch two functions of vmlinux and one of each of two modules in
 * one transition. Any of the modules may be absent, and come or go later.
 *
 * Usage:
 *
 *   # insmod klp_left.ko; insmod klp_right.ko; insmod klp_several.ko
 *   # cat /proc/cmdline /proc/loadavg /proc/klp_left /proc/klp_right
 *   livepatched by klp_several
 *   livepatched by klp_several
 *   -10
 *   -20
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/seq_file.h>

static int livepatch_proc_show(struct seq_file *m, void *v)
{
	seq_puts(m, "livepatched by " KBUILD_MODNAME "\n");
	return 0;
}

static int livepatch_left_answer(int from)
{
	return -from;
}

static int livepatch_right_answer(int from)
{
	return -2 * from;
}

static struct klp_func vmlinux_funcs[] = {
	{
		.old_name = "cmdline_proc_show",
		.new_func = livepatch_proc_show,
	}, {
		.old_name = "loadavg_proc_show",
		.new_func = livepatch_proc_show,
	}, { }
};

static struct klp_func left_funcs[] = {
	{
		.old_name = "klp_left_answer",
		.new_func = livepatch_left_answer,
	}, { }
};

static struct klp_func right_funcs[] = {
	{
		.old_name = "klp_right_answer",
		.new_func = livepatch_right_answer,
	}, { }
};

static struct klp_object objs[] = {
	{
		/* name being NULL means vmlinux */
		.funcs = vmlinux_funcs,
	}, {
		.name = "klp_left",
		.funcs = left_funcs,
	}, {
		.name = "klp_right",
		.funcs = right_funcs,
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_several_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_several_exit(void)
{
}

module_init(klp_several_init);
module_exit(klp_several_exit);
MODULE_DESCRIPTION("Livepatch of vmlinux and two modules");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
