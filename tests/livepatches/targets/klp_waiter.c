// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_waiter.c - a module with a function that another calls, and sleeps in
 *
 * Purpose: have a function that is wrong, which calls one that is right and in
 * which a task sleeps: for long_ms whoever reads one file, for a moment whoever
 * reads the other.
 *
 * Usage:
 *
 *   # insmod klp_waiter.ko long_ms=8000
 *   # cat /proc/klp_waiter
 *   54
 *   # cat /proc/klp_waiter_long
 */

#include <linux/delay.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>

#include "klp_waiter.h"

#define SHORT_NAME "klp_waiter"
#define LONG_NAME "klp_waiter_long"

static unsigned int long_ms = 8000;
module_param(long_ms, uint, 0644);
MODULE_PARM_DESC(long_ms, "how long who reads the one file sleeps (default=8000)");

static unsigned int short_ms = 1;

noinline __noclone int klp_waiter_wait(unsigned int ms, int answer)
{
	msleep(ms);
	return answer;
}
EXPORT_SYMBOL_GPL(klp_waiter_wait);

/* Oops: 6 times 7 it is. */
static int klp_waiter_show(struct seq_file *m, void *v)
{
	unsigned int *ms = m->private;

	seq_printf(m, "%d\n", klp_waiter_wait(READ_ONCE(*ms), 6 * 9));
	return 0;
}

static int __init klp_waiter_init(void)
{
	if (!proc_create_single_data(SHORT_NAME, 0444, NULL, klp_waiter_show, &short_ms))
		return -ENOMEM;
	if (!proc_create_single_data(LONG_NAME, 0444, NULL, klp_waiter_show, &long_ms)) {
		remove_proc_entry(SHORT_NAME, NULL);
		return -ENOMEM;
	}
	return 0;
}

static void __exit klp_waiter_exit(void)
{
	remove_proc_entry(LONG_NAME, NULL);
	remove_proc_entry(SHORT_NAME, NULL);
}

module_init(klp_waiter_init);
module_exit(klp_waiter_exit);
MODULE_DESCRIPTION("Module with a function that another calls, and sleeps in");
MODULE_LICENSE("GPL");
