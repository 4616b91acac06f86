// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_main_function.c - a livepatch of a kthread's main function
 *
 * Purpose: have the kthread of klp_napper.ko, which sleeps 200 ms at a time, sleep
 * interruptibly.
 *
 * Fault: what is changed is its main function. It lies on the kthread's stack
 * until the kthread ends, however often the kthread wakes up.
 */

#include <linux/delay.h>
#include <linux/kernel.h>
#include <linux/kthread.h>
#include <linux/livepatch.h>
#include <linux/module.h>

static int livepatch_napper_thread(void *nothing)
{
	while (!kthread_should_stop())
		msleep_interruptible(200);
	return 0;
}

static const char *livepatch_napper_word(void)
{
	return "new";
}

static struct klp_func funcs[] = {
	{
		.old_name = "klp_napper_thread",
		.new_func = livepatch_napper_thread,
	}, {
		.old_name = "klp_napper_word",
		.new_func = livepatch_napper_word,
	}, { }
};

static struct klp_object objs[] = {
	{
		.name = "klp_napper",
		.funcs = funcs,
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_bad_main_function_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_main_function_exit(void)
{
}

module_init(klp_bad_main_function_init);
module_exit(klp_bad_main_function_exit);
MODULE_DESCRIPTION("Livepatch of a kthread's main function");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
