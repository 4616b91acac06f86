// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_not_traced.c - a livepatch of a function that ftrace does not know
 *
 * Purpose: change what every system call goes through.
 *
 * Fault: do_syscall_64 is noinstr: it has no call of ftrace that could be redirected.
 */

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>

static void livepatch_nothing(void)
{
}

static struct klp_func funcs[] = {
	{
		.old_name = "do_syscall_64",
		.new_func = livepatch_nothing,
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

static int __init klp_bad_not_traced_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_not_traced_exit(void)
{
}

module_init(klp_bad_not_traced_init);
module_exit(klp_bad_not_traced_exit);
MODULE_DESCRIPTION("Livepatch of a function that ftrace does not know");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
