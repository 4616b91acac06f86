// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_endless_sleep.c - a livepatch whose new function never returns
 *
 * Purpose: change klp_holder_version(), and klp_holder_sleep() as well.
 *
 * Fault: the new function waits for something that nobody ever does. Whoever
 * calls it stays there, so that the livepatch cannot be disabled.
 */

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/wait.h>

#include "klp_holder.h"

static DECLARE_WAIT_QUEUE_HEAD(released);
static bool go_on;

static void livepatch_holder_sleep(struct klp_holder *holder)
{
	wait_event(released, READ_ONCE(go_on));
}

static int livepatch_holder_version(int version)
{
	return version + 1;
}

static struct klp_func funcs[] = {
	{
		.old_name = "klp_holder_sleep",
		.new_func = livepatch_holder_sleep,
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

static int __init klp_bad_endless_sleep_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_endless_sleep_exit(void)
{
}

module_init(klp_bad_endless_sleep_init);
module_exit(klp_bad_endless_sleep_exit);
MODULE_DESCRIPTION("Livepatch whose new function never returns");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
