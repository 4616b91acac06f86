// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_callee_beside.c - a livepatch that probes what it calls, beside others
 *
 * Purpose: have /proc/klp_waiter say 42, and have a kprobe on what its new
 * function calls, beside whatever others there are.
 */

#include <linux/kernel.h>
#include <linux/kprobes.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/seq_file.h>

#include "klp_waiter.h"

static struct kprobe probe = {
	.symbol_name = "klp_waiter_wait",
	.flags = KPROBE_FLAG_DISABLED,
};

static int pre_patch(struct klp_object *obj)
{
	return register_kprobe(&probe);
}

static void post_unpatch(struct klp_object *obj)
{
	unregister_kprobe(&probe);
}

static int livepatch_waiter_show(struct seq_file *m, void *v)
{
	unsigned int *ms = m->private;

	seq_printf(m, "%d\n", klp_waiter_wait(READ_ONCE(*ms), 6 * 7));
	return 0;
}

static struct klp_func funcs[] = {
	{
		.old_name = "klp_waiter_show",
		.new_func = livepatch_waiter_show,
	}, { }
};

static struct klp_object objs[] = {
	{
		.name = "klp_waiter",
		.funcs = funcs,
		.callbacks = {
			.pre_patch = pre_patch,
			.post_unpatch = post_unpatch,
		},
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_good_callee_beside_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_good_callee_beside_exit(void)
{
}

module_init(klp_good_callee_beside_init);
module_exit(klp_good_callee_beside_exit);
MODULE_DESCRIPTION("Livepatch that probes what it calls, beside others");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
