// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_later.c - a module to be livepatched
 *
 * Purpose: show twice the parameter "base" in /proc/klp_later.
 */

#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>

static int base = 7;
module_param(base, int, 0644);
MODULE_PARM_DESC(base, "what the answer is made of");

static noinline __noclone int klp_later_answer(int from)
{
	return from * 2;
}

static int klp_later_show(struct seq_file *m, void *v)
{
	seq_printf(m, "%d\n", klp_later_answer(READ_ONCE(base)));
	return 0;
}

static int __init klp_later_init(void)
{
	if (!proc_create_single("klp_later", 0444, NULL, klp_later_show))
		return -ENOMEM;
	return 0;
}

static void __exit klp_later_exit(void)
{
	remove_proc_entry("klp_later", NULL);
}

module_init(klp_later_init);
module_exit(klp_later_exit);
MODULE_DESCRIPTION("Module to be livepatched");
MODULE_LICENSE("GPL");
