// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_inlined.c - a module with a function that the compiler inlines
 *
 * Purpose: have a function that is wrong, whose callers do not call it: it is
 * short enough to be inlined. It has a copy of its own all the same, because a
 * table takes its address.
 *
 * Usage:
 *
 *   # insmod klp_inlined.ko seed=6
 *   # cat /proc/klp_inlined
 *   54 63
 */

#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>

#define PROC_NAME "klp_inlined"

static int seed = 6;
module_param(seed, int, 0644);
MODULE_PARM_DESC(seed, "what the answers are computed from (default=6)");

/* Oops: 9 for 7. */
static int klp_inlined_answer(int from)
{
	return from * 9;
}

/* For those who call it by its address; nobody does. */
static int (*by_address)(int from) = klp_inlined_answer;

static noinline __noclone int klp_inlined_first(int from)
{
	return klp_inlined_answer(from);
}

static noinline __noclone int klp_inlined_second(int from)
{
	return klp_inlined_answer(from + 1);
}

static int klp_inlined_show(struct seq_file *m, void *v)
{
	int from = READ_ONCE(seed);

	seq_printf(m, "%d %d\n", klp_inlined_first(from),
		   klp_inlined_second(from));
	return READ_ONCE(by_address) ? 0 : -ENOENT;
}

static int __init klp_inlined_init(void)
{
	if (!proc_create_single(PROC_NAME, 0444, NULL, klp_inlined_show))
		return -ENOMEM;
	return 0;
}

static void __exit klp_inlined_exit(void)
{
	remove_proc_entry(PROC_NAME, NULL);
}

module_init(klp_inlined_init);
module_exit(klp_inlined_exit);
MODULE_DESCRIPTION("Module with a function that the compiler inlines");
MODULE_LICENSE("GPL");
