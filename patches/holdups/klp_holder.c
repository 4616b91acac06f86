// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_holder.c - tasks that hold up a transition for as long as they are told
 *
 * Purpose: keep tasks where a livepatch of this module cannot switch them:
 *
 *   sleepers	kthreads sleeping interruptibly in klp_holder_sleep()
 *   stuck	kthreads sleeping uninterruptibly in klp_holder_stuck()
 *   spinners	kthreads busy in klp_holder_spin(), with cond_resched()
 *   polite	kthreads busy in a function that no livepatch changes, with
 *		cond_resched(), for busy_ms at a time: what the switch in the
 *		scheduler is for
 *   busy	the same without cond_resched()
 *   readers	any user's task that reads /proc/klp_holder_wait sleeps in
 *		klp_holder_read() until it is signalled or released
 *	faulters	one that writes to a mapping of /proc/klp_holder_fault
 *		sleeps there in whatever system call wrote for it, as clone()
 *		does in the middle of a fork
 *
 * They are let go by parameters/hold, and can be caught again:
 *
 *   # insmod klp_holder.ko sleepers=1
 *   # cat /proc/klp_holder
 *   version 0 inside 1
 *   # insmod klp_holder_fix.ko		(its transition does not end)
 *   # echo 0 > /sys/module/klp_holder/parameters/hold	(now it does)
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/delay.h>
#include <linux/err.h>
#include <linux/jiffies.h>
#include <linux/kernel.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/slab.h>

#include "klp_holder.h"

#define PROC_NAME "klp_holder"
#define PROC_WAIT_NAME "klp_holder_wait"
#define PROC_FAULT_NAME "klp_holder_fault"

static struct klp_holder holder = {
	.hold = true,
	.inside = ATOMIC_INIT(0),
	.released = __WAIT_QUEUE_HEAD_INITIALIZER(holder.released),
};

static int hold_set(const char *val, const struct kernel_param *kp)
{
	int err;

	err = param_set_bool(val, kp);
	wake_up_all(&holder.released);
	return err;
}

static const struct kernel_param_ops hold_ops = {
	.set = hold_set,
	.get = param_get_bool,
};

module_param_cb(hold, &hold_ops, &holder.hold, 0644);
MODULE_PARM_DESC(hold, "hold tasks (default), or let them go");

static unsigned int sleepers;
module_param(sleepers, uint, 0444);
MODULE_PARM_DESC(sleepers, "kthreads sleeping interruptibly");

static unsigned int stuck;
module_param(stuck, uint, 0444);
MODULE_PARM_DESC(stuck, "kthreads sleeping uninterruptibly");

static unsigned int spinners;
module_param(spinners, uint, 0444);
MODULE_PARM_DESC(spinners, "kthreads busy in a function to be patched");

static unsigned int polite;
module_param(polite, uint, 0444);
MODULE_PARM_DESC(polite, "kthreads busy elsewhere, with cond_resched()");

static unsigned int busy;
module_param(busy, uint, 0444);
MODULE_PARM_DESC(busy, "kthreads busy elsewhere, without cond_resched()");

static unsigned int busy_ms = 2000;
module_param(busy_ms, uint, 0644);
MODULE_PARM_DESC(busy_ms, "how long polite and busy take no pause (default=2000)");

static int version;
module_param(version, int, 0644);
MODULE_PARM_DESC(version, "what klp_holder_version() answers (default=0)");

static struct task_struct **kthreads;
static unsigned int started;

static noinline __noclone void klp_holder_sleep(struct klp_holder *holder)
{
	klp_holder_do_sleep(holder);
}

static noinline __noclone void klp_holder_stuck(struct klp_holder *holder)
{
	klp_holder_do_stuck(holder);
}

static noinline __noclone void klp_holder_spin(struct klp_holder *holder)
{
	klp_holder_do_spin(holder);
}

static noinline __noclone int klp_holder_read(struct klp_holder *holder)
{
	return klp_holder_do_read(holder);
}

static noinline __noclone int klp_holder_version(int version)
{
	return version;
}

/* What follows is not to be livepatched. */
static __always_inline void klp_holder_work(struct klp_holder *holder,
					    bool polite)
{
	unsigned long end = jiffies + msecs_to_jiffies(READ_ONCE(busy_ms));

	atomic_inc(&holder->inside);
	while (!klp_holder_released(holder) && time_before(jiffies, end)) {
		if (polite)
			cond_resched();
		else
			cpu_relax();
	}
	atomic_dec(&holder->inside);
}

static void klp_holder_be_polite(struct klp_holder *holder)
{
	klp_holder_work(holder, true);
}

static void klp_holder_be_busy(struct klp_holder *holder)
{
	klp_holder_work(holder, false);
}

static const struct {
	const char *name;
	unsigned int *count;
	void (*wait)(struct klp_holder *holder);
} kinds[] = {
	{ "sleep", &sleepers, klp_holder_sleep },
	{ "stuck", &stuck, klp_holder_stuck },
	{ "spin", &spinners, klp_holder_spin },
	{ "polite", &polite, klp_holder_be_polite },
	{ "busy", &busy, klp_holder_be_busy },
};

/* The pause lets the task switch while it is in none of the functions. */
static int klp_holder_thread(void *wait)
{
	void (*hold)(struct klp_holder *holder) = wait;

	while (!kthread_should_stop()) {
		hold(&holder);
		msleep_interruptible(20);
	}
	return 0;
}

static void klp_holder_stop(void)
{
	holder.hold = false;
	wake_up_all(&holder.released);
	while (started)
		kthread_stop(kthreads[--started]);
	kvfree(kthreads);
}

static int klp_holder_start(void)
{
	unsigned int kind, i, all = 0;
	struct task_struct *task;

	for (kind = 0; kind < ARRAY_SIZE(kinds); kind++)
		all += *kinds[kind].count;
	kthreads = kvcalloc(all, sizeof(*kthreads), GFP_KERNEL);
	if (!kthreads)
		return -ENOMEM;

	for (kind = 0; kind < ARRAY_SIZE(kinds); kind++) {
		for (i = 0; i < *kinds[kind].count; i++) {
			task = kthread_run(klp_holder_thread, kinds[kind].wait,
					   "klp_%s/%u", kinds[kind].name, i);
			if (IS_ERR(task)) {
				klp_holder_stop();
				return PTR_ERR(task);
			}
			kthreads[started++] = task;
		}
	}
	return 0;
}

static int klp_holder_show(struct seq_file *m, void *v)
{
	seq_printf(m, "version %d inside %d\n", klp_holder_version(READ_ONCE(version)),
		   atomic_read(&holder.inside));
	return 0;
}

static int klp_holder_wait_show(struct seq_file *m, void *v)
{
	int err;

	err = klp_holder_read(&holder);
	if (!err)
		seq_puts(m, "released\n");
	return err;
}

static vm_fault_t klp_holder_fault(struct vm_fault *vmf)
{
	struct page *page;

	if (klp_holder_read(&holder))
		return VM_FAULT_SIGBUS;

	page = alloc_page(GFP_KERNEL | __GFP_ZERO);
	if (!page)
		return VM_FAULT_OOM;

	vmf->page = page;
	return 0;
}

static const struct vm_operations_struct klp_holder_vm_ops = {
	.fault = klp_holder_fault,
};

static int klp_holder_mmap(struct file *file, struct vm_area_struct *vma)
{
	vma->vm_ops = &klp_holder_vm_ops;
	return 0;
}

static const struct proc_ops klp_holder_fault_ops = {
	.proc_mmap = klp_holder_mmap,
};

static int __init klp_holder_init(void)
{
	int err;

	err = klp_holder_start();
	if (err)
		return err;

	if (!proc_create_single(PROC_NAME, 0444, NULL, klp_holder_show))
		goto stop;
	if (!proc_create_single(PROC_WAIT_NAME, 0444, NULL,
				klp_holder_wait_show))
		goto remove;
	if (!proc_create(PROC_FAULT_NAME, 0600, NULL, &klp_holder_fault_ops))
		goto remove_wait;
	return 0;

remove_wait:
	remove_proc_entry(PROC_WAIT_NAME, NULL);
remove:
	remove_proc_entry(PROC_NAME, NULL);
stop:
	klp_holder_stop();
	return -ENOMEM;
}

static void __exit klp_holder_exit(void)
{
	holder.hold = false;
	wake_up_all(&holder.released);
	remove_proc_entry(PROC_FAULT_NAME, NULL);
	remove_proc_entry(PROC_WAIT_NAME, NULL);
	remove_proc_entry(PROC_NAME, NULL);
	klp_holder_stop();
}

module_init(klp_holder_init);
module_exit(klp_holder_exit);
MODULE_DESCRIPTION("Tasks that hold up a transition");
MODULE_LICENSE("GPL");
