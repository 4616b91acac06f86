// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_waiter.c - a module with a function that another calls, and sleeps in
 *
 * Purpose: have a function that is wrong, which calls one that is right and in
 * which a task sleeps for wait_ms. Whoever reads the file is that task.
 *
 * Usage:
 *
 *   # insmod klp_waiter.ko wait_ms=2500
 *   # cat /proc/klp_waiter
 *   54
 */

#include <linux/delay.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>

#include "klp_waiter.h"

#define PROC_NAME "klp_waiter"

static unsigned int wait_ms = 2500;
module_param(wait_ms, uint, 0644);
MODULE_PARM_DESC(wait_ms, "how long who reads sleeps (default=2500)");

noinline __noclone int klp_waiter_wait(int answer)
{
	msleep(READ_ONCE(wait_ms));
	return answer;
}
EXPORT_SYMBOL_GPL(klp_waiter_wait);

/* Oops: 6 times 7 it is. */
static int klp_waiter_show(struct seq_file *m, void *v)
{
	seq_printf(m, "%d\n", klp_waiter_wait(6 * 9));
	return 0;
}

static int __init klp_waiter_init(void)
{
	if (!proc_create_single(PROC_NAME, 0444, NULL, klp_waiter_show))
		return -ENOMEM;
	return 0;
}

static void __exit klp_waiter_exit(void)
{
	remove_proc_entry(PROC_NAME, NULL);
}

module_init(klp_waiter_init);
module_exit(klp_waiter_exit);
MODULE_DESCRIPTION("Module with a function that another calls, and sleeps in");
MODULE_LICENSE("GPL");
