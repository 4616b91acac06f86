// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_right.c - one of two modules that one livepatch changes
 *
 * Purpose: /proc/klp_right shows a doubling of "seed", computed by klp_right_answer().
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>

#define PROC_NAME "klp_right"

static int seed = 10;
module_param(seed, int, 0644);
MODULE_PARM_DESC(seed, "what the answer is computed from (default=10)");

static noinline __noclone int klp_right_answer(int from)
{
	return from * 2;
}

static int klp_right_show(struct seq_file *m, void *v)
{
	seq_printf(m, "%d\n", klp_right_answer(READ_ONCE(seed)));
	return 0;
}

static int __init klp_right_init(void)
{
	if (!proc_create_single(PROC_NAME, 0444, NULL, klp_right_show))
		return -ENOMEM;
	return 0;
}

static void __exit klp_right_exit(void)
{
	remove_proc_entry(PROC_NAME, NULL);
}

module_init(klp_right_init);
module_exit(klp_right_exit);
MODULE_DESCRIPTION("One of two modules that klp_several changes");
MODULE_LICENSE("GPL");
