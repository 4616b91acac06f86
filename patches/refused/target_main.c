// SPDX-License-Identifier: GPL-2.0-only
/*
 * target_main.c - klp_refused_target.ko, which klp_refused.ko tries to patch
 *
 * Purpose: have one function with a name of its own, and two that share one:
 * klp_refused_twin() is here and in target_twin.c.
 *
 * Usage:
 *
 *   # insmod klp_refused_target.ko
 *   # cat /proc/klp_refused
 *   answer 0 twins 10 20
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>

#include "target.h"

#define PROC_NAME "klp_refused"

static int base;
module_param(base, int, 0644);
MODULE_PARM_DESC(base, "is added to every answer (default=0)");

static noinline __noclone int klp_refused_answer(int from)
{
	return from;
}

static noinline __noclone int klp_refused_twin(int from)
{
	return from + 10;
}

static int klp_refused_show(struct seq_file *m, void *v)
{
	int from = READ_ONCE(base);

	seq_printf(m, "answer %d twins %d %d\n", klp_refused_answer(from),
		   klp_refused_twin(from), target_twin_answer(from));
	return 0;
}

static int __init klp_refused_target_init(void)
{
	if (!proc_create_single(PROC_NAME, 0444, NULL, klp_refused_show))
		return -ENOMEM;
	return 0;
}

static void __exit klp_refused_target_exit(void)
{
	remove_proc_entry(PROC_NAME, NULL);
}

module_init(klp_refused_target_init);
module_exit(klp_refused_target_exit);
MODULE_DESCRIPTION("What klp_refused tries to patch");
MODULE_LICENSE("GPL");
