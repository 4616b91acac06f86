// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_target.c - a module with a bug, to be livepatched
 *
 * Purpose: give klp_module_target a function to replace whose effect can be
 * read. /proc/klp_target shows the answer for "seed"; with the default seed
 * it should be 42, and is not.
 *
 * Usage:
 *
 *   # insmod klp_target.ko
 *   # cat /proc/klp_target
 *   54
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>

#define PROC_NAME "klp_target"

static int seed = 6;
module_param(seed, int, 0644);
MODULE_PARM_DESC(seed, "what the answer is computed from (default=6)");

/* Not inlined, so that there is one function to patch. Oops: 9 for 7. */
static noinline int klp_target_answer(int from)
{
	return from * 9;
}

static int klp_target_show(struct seq_file *m, void *v)
{
	seq_printf(m, "%d\n", klp_target_answer(READ_ONCE(seed)));
	return 0;
}

static int __init klp_target_init(void)
{
	if (!proc_create_single(PROC_NAME, 0444, NULL, klp_target_show))
		return -ENOMEM;
	return 0;
}

static void __exit klp_target_exit(void)
{
	remove_proc_entry(PROC_NAME, NULL);
}

module_init(klp_target_init);
module_exit(klp_target_exit);
MODULE_DESCRIPTION("Module with a bug for klp_module_target to fix");
MODULE_LICENSE("GPL");
