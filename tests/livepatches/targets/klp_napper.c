// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_napper.c - a kthread that sleeps for a while, again and again
 *
 * Purpose: have a function in which a kthread sleeps for nap_ms, and does not
 * wake before. It always comes out, and sleeps for a moment elsewhere.
 *
 * Usage:
 *
 *   # insmod klp_napper.ko nap_ms=2000
 *   # cat /proc/klp_napper
 *   old
 */

#include <linux/delay.h>
#include <linux/err.h>
#include <linux/kernel.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/sched.h>
#include <linux/seq_file.h>

#define PROC_NAME "klp_napper"

static unsigned int nap_ms = 2000;
module_param(nap_ms, uint, 0644);
MODULE_PARM_DESC(nap_ms, "how long the kthread sleeps at a time (default=2000)");

static struct task_struct *task;

static noinline __noclone void klp_napper_nap(unsigned int ms)
{
	schedule_timeout_uninterruptible(msecs_to_jiffies(ms));
}

static noinline __noclone const char *klp_napper_word(void)
{
	return "old";
}

static int klp_napper_thread(void *nothing)
{
	while (!kthread_should_stop()) {
		klp_napper_nap(READ_ONCE(nap_ms));
		msleep_interruptible(20);
	}
	return 0;
}

static int klp_napper_show(struct seq_file *m, void *v)
{
	seq_printf(m, "%s\n", klp_napper_word());
	return 0;
}

static int __init klp_napper_init(void)
{
	task = kthread_run(klp_napper_thread, NULL, "klp_napper");
	if (IS_ERR(task))
		return PTR_ERR(task);

	if (!proc_create_single(PROC_NAME, 0444, NULL, klp_napper_show)) {
		kthread_stop(task);
		return -ENOMEM;
	}
	return 0;
}

static void __exit klp_napper_exit(void)
{
	remove_proc_entry(PROC_NAME, NULL);
	kthread_stop(task);
}

module_init(klp_napper_init);
module_exit(klp_napper_exit);
MODULE_DESCRIPTION("Kthread that sleeps for a while, again and again");
MODULE_LICENSE("GPL");
