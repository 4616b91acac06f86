// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_state_forgotten.c - a replacement that forgets a state
 *
 * Purpose: replace all livepatches, klp_state.ko among them, and mark
 * /proc/version.
 *
 * Fault: it is cumulative and does not carry the system state that klp_state.ko
 * has installed. Nobody would restore what that has changed.
 */

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/utsname.h>

static int livepatch_version_proc_show(struct seq_file *m, void *v)
{
	seq_printf(m, "%s version %s, livepatched\n", utsname()->sysname,
		   utsname()->release);
	return 0;
}

static struct klp_func funcs[] = {
	{
		.old_name = "version_proc_show",
		.new_func = livepatch_version_proc_show,
	}, { }
};

static struct klp_object objs[] = {
	{
		/* name being NULL means vmlinux */
		.funcs = funcs,
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
	.replace = true,
};

static int __init klp_bad_state_forgotten_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_state_forgotten_exit(void)
{
}

module_init(klp_bad_state_forgotten_init);
module_exit(klp_bad_state_forgotten_exit);
MODULE_DESCRIPTION("Replacement that forgets a state");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
