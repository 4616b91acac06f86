// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_kthread_left.c - a livepatch that leaves its kthread running
 *
 * Purpose: mark /proc/version, and have a kthread look after something.
 *
 * Fault: nothing stops the kthread. It runs on when the livepatch's code is
 * gone.
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

static int klp_bad_kthread_thread(void *nothing)
{
	while (!kthread_should_stop())
		msleep_interruptible(20);
	return 0;
}

static void post_patch(struct klp_object *obj)
{
	task = kthread_run(klp_bad_kthread_thread, NULL, "klp_bad_kthread");
	if (IS_ERR(task))
		pr_err("no kthread: %ld\n", PTR_ERR(task));
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

static int __init klp_bad_kthread_left_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_kthread_left_exit(void)
{
}

module_init(klp_bad_kthread_left_init);
module_exit(klp_bad_kthread_left_exit);
MODULE_DESCRIPTION("Livepatch that leaves its kthread running");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
