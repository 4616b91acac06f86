// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_kthread_stopped.c - a livepatch that stops its kthread
 *
 * Purpose: mark /proc/version, and have a kthread look after something for as
 * long as the livepatch is enabled.
 */

#include <linux/delay.h>
#include <linux/err.h>
#include <linux/kernel.h>
#include <linux/kthread.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/utsname.h>

static struct task_struct *task;

static int klp_good_kthread_thread(void *nothing)
{
	while (!kthread_should_stop())
		msleep_interruptible(20);
	return 0;
}

static void post_patch(struct klp_object *obj)
{
	task = kthread_run(klp_good_kthread_thread, NULL, "klp_good_kthread");
	if (IS_ERR(task))
		pr_err("no kthread: %ld\n", PTR_ERR(task));
}

static void pre_unpatch(struct klp_object *obj)
{
	if (!IS_ERR(task))
		kthread_stop(task);
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

static int __init klp_good_kthread_stopped_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_good_kthread_stopped_exit(void)
{
}

module_init(klp_good_kthread_stopped_init);
module_exit(klp_good_kthread_stopped_exit);
MODULE_DESCRIPTION("Livepatch that stops its kthread");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
