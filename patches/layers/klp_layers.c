// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_layers.c - three functions for livepatches to lie upon each other
 *
 * Purpose: show which livepatch is the topmost for each function: the tens of
 * an answer tell the function, the units the livepatch. (Three functions with
 * the same body would be one to the compiler, and three to a livepatch.)
 *
 * Usage:
 *
 *   # insmod klp_layers.ko
 *   # cat /proc/klp_layers
 *   a=10 b=20 c=30
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>

#define PROC_NAME "klp_layers"

static int base;
module_param(base, int, 0644);
MODULE_PARM_DESC(base, "is added to every answer (default=0)");

static noinline __noclone int klp_layers_a(int from)
{
	return from + 10;
}

static noinline __noclone int klp_layers_b(int from)
{
	return from + 20;
}

static noinline __noclone int klp_layers_c(int from)
{
	return from + 30;
}

static int klp_layers_show(struct seq_file *m, void *v)
{
	int from = READ_ONCE(base);

	seq_printf(m, "a=%d b=%d c=%d\n", klp_layers_a(from),
		   klp_layers_b(from), klp_layers_c(from));
	return 0;
}

static int __init klp_layers_init(void)
{
	if (!proc_create_single(PROC_NAME, 0444, NULL, klp_layers_show))
		return -ENOMEM;
	return 0;
}

static void __exit klp_layers_exit(void)
{
	remove_proc_entry(PROC_NAME, NULL);
}

module_init(klp_layers_init);
module_exit(klp_layers_exit);
MODULE_DESCRIPTION("Three functions for livepatches to lie upon each other");
MODULE_LICENSE("GPL");
