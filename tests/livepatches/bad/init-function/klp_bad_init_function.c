// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_init_function.c - a livepatch of a function that is gone after boot
 *
 * Purpose: change how the kernel starts.
 *
 * Fault: start_kernel is __init: its memory was given back once the kernel was up.
 */

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>

static void livepatch_nothing(void)
{
}

static struct klp_func funcs[] = {
	{
		.old_name = "start_kernel",
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

static int __init klp_bad_init_function_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_init_function_exit(void)
{
}

module_init(klp_bad_init_function_init);
module_exit(klp_bad_init_function_exit);
MODULE_DESCRIPTION("Livepatch of a function that is gone after boot");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
