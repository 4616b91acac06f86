// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_short_sleep.c - a livepatch whose new function sleeps, and returns
 *
 * Purpose: have the new function sleep for a second where the old one does for
 * a moment. Disabling the livepatch takes as long, and ends.
 */

#include <linux/delay.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>

static void livepatch_napper_nap(unsigned int ms)
{
	msleep(ms + 1000);
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

static int __init klp_good_short_sleep_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_good_short_sleep_exit(void)
{
}

module_init(klp_good_short_sleep_init);
module_exit(klp_good_short_sleep_exit);
MODULE_DESCRIPTION("Livepatch whose new function sleeps, and returns");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
