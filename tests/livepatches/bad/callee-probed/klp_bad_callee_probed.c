// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_callee_probed.c - a livepatch that wants what it calls to itself
 *
 * Purpose: have /proc/klp_waiter say 42, unless something else is at work on
 * what its new function calls.
 *
 * Fault: an administrator's probe there, which does no harm, is taken for that.
 */

#include <linux/kernel.h>
#include <linux/kprobes.h>
#include <linux/list.h>
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
	bool others;
	int err;

	err = register_kprobe(&probe);
	if (err)
		return err;
	/* A list of all kprobes of one address, if there is more than one. */
	others = !list_empty(&probe.list);
	unregister_kprobe(&probe);
	return others ? -EBUSY : 0;
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
		},
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_bad_callee_probed_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_callee_probed_exit(void)
{
}

module_init(klp_bad_callee_probed_init);
module_exit(klp_bad_callee_probed_exit);
MODULE_DESCRIPTION("Livepatch that wants what it calls to itself");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
