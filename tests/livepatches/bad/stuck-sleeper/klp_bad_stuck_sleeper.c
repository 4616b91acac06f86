// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_stuck_sleeper.c - a livepatch of a function that holds its sleepers for ever
 *
 * Purpose: change klp_holder_version(), and klp_holder_stuck() as well.
 *
 * Fault: a kthread of klp_holder.ko sleeps in klp_holder_stuck(), does not wake
 * for a signal, and does not come out before the module goes. No task that
 * sleeps in a function which is to be changed can be switched: the transition
 * never ends.
 */

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>

#include "klp_holder.h"

static void livepatch_holder_stuck(struct klp_holder *holder)
{
	klp_holder_do_stuck(holder);
}

static int livepatch_holder_version(int version)
{
	return version + 1;
}

static struct klp_func funcs[] = {
	{
		.old_name = "klp_holder_stuck",
		.new_func = livepatch_holder_stuck,
	}, {
		.old_name = "klp_holder_version",
		.new_func = livepatch_holder_version,
	}, { }
};

static struct klp_object objs[] = {
	{
		.name = "klp_holder",
		.funcs = funcs,
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_bad_stuck_sleeper_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_stuck_sleeper_exit(void)
{
}

module_init(klp_bad_stuck_sleeper_init);
module_exit(klp_bad_stuck_sleeper_exit);
MODULE_DESCRIPTION("Livepatch of a function that holds its sleepers for ever");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
