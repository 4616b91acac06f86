// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_timer_stopped.c - a livepatch that deletes its timer
 *
 * Purpose: mark /proc/version, and look after something every 20 ms for as
 * long as the livepatch is enabled.
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

static void klp_good_timer_tick(struct timer_list *unused)
{
	mod_timer(&timer, jiffies + PERIOD);
}

static void post_patch(struct klp_object *obj)
{
	timer_setup(&timer, klp_good_timer_tick, 0);
	mod_timer(&timer, jiffies + PERIOD);
}

static void pre_unpatch(struct klp_object *obj)
{
	timer_delete_sync(&timer);
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
			.pre_unpatch = pre_unpatch,
		},
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_good_timer_stopped_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_good_timer_stopped_exit(void)
{
}

module_init(klp_good_timer_stopped_init);
module_exit(klp_good_timer_stopped_exit);
MODULE_DESCRIPTION("Livepatch that stops its timer");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
