// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_slow_sleeper.c - a livepatch of a function in which a task sleeps for a while
 *
 * Purpose: change a function in which a kthread of klp_napper.ko sleeps for two
 * seconds at a time, and then for a moment elsewhere. The transition takes as
 * long, and ends.
 */

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/sched.h>

static void livepatch_napper_nap(unsigned int ms)
{
	schedule_timeout_uninterruptible(msecs_to_jiffies(ms));
}

static const char *livepatch_napper_word(void)
{
	return "new";
}

static struct klp_func funcs[] = {
	{
		.old_name = "klp_napper_nap",
		.new_func = livepatch_napper_nap,
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

static int __init klp_good_slow_sleeper_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_good_slow_sleeper_exit(void)
{
}

module_init(klp_good_slow_sleeper_init);
module_exit(klp_good_slow_sleeper_exit);
MODULE_DESCRIPTION("Livepatch of a function in which a task sleeps for a while");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
