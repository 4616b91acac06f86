// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_timer_left.c - a livepatch that leaves a timer of its own running
 *
 * Purpose: mark /proc/version, and look after something every 20 ms.
 *
 * Fault: nothing deletes the timer. It is still in its wheel when the memory
 * that it is in is gone.
 */

#include <linux/jiffies.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/timer.h>
#include <linux/utsname.h>

#define PERIOD	msecs_to_jiffies(20)

static struct timer_list timer;

static void klp_bad_timer_tick(struct timer_list *unused)
{
	mod_timer(&timer, jiffies + PERIOD);
}

static void post_patch(struct klp_object *obj)
{
	timer_setup(&timer, klp_bad_timer_tick, 0);
	mod_timer(&timer, jiffies + PERIOD);
}

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
	}, { }
};

static struct klp_object objs[] = {
	{
		/* name being NULL means vmlinux */
		.funcs = funcs,
		.callbacks = {
			.post_patch = post_patch,
		},
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_bad_timer_left_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_timer_left_exit(void)
{
}

module_init(klp_bad_timer_left_init);
module_exit(klp_bad_timer_left_exit);
MODULE_DESCRIPTION("Livepatch that leaves its timer running");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
