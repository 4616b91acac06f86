// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_post_handler.c - a kprobe with a post-handler
 *
 * Purpose: since a post-handler may change where the function goes on, the
 * kernel registers such a kprobe with FTRACE_OPS_FL_IPMODIFY, as it does a
 * livepatch; a function has one such user at a time, so that a livepatch of it
 * is refused with EBUSY.
 */

#include <linux/kprobes.h>
#include <linux/module.h>

static char *function = "version_proc_show";
module_param(function, charp, 0444);
MODULE_PARM_DESC(function, "the function that is probed");

static void after_it(struct kprobe *probe, struct pt_regs *regs, unsigned long flags)
{
}

static struct kprobe probe = {
	.post_handler = after_it,
};

static int __init klp_post_handler_init(void)
{
	probe.symbol_name = function;
	return register_kprobe(&probe);
}

static void __exit klp_post_handler_exit(void)
{
	unregister_kprobe(&probe);
}

module_init(klp_post_handler_init);
module_exit(klp_post_handler_exit);
MODULE_DESCRIPTION("Probe a function by a kprobe with a post-handler");
MODULE_LICENSE("GPL");
