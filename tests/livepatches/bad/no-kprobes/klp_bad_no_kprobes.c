// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_no_kprobes.c - a livepatch that is enabled beside no kprobe
 *
 * Purpose: mark /proc/version, unless something else is at work on what shows
 * it.
 *
 * Fault: an administrator's kprobe, which does no harm, is taken for that.
 */

#include <linux/kernel.h>
#include <linux/kprobes.h>
#include <linux/list.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/utsname.h>

static struct kprobe probe = {
	.symbol_name = "version_proc_show",
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

static int livepatch_version_proc_show(struct seq_file *m, void *v)
{
	seq_printf(m, "%s version %s, livepatched\n",
		   utsname()->sysname, utsname()->release);
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
		.callbacks = {
			.pre_patch = pre_patch,
		},
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_bad_no_kprobes_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_no_kprobes_exit(void)
{
}

module_init(klp_bad_no_kprobes_init);
module_exit(klp_bad_no_kprobes_exit);
MODULE_DESCRIPTION("Livepatch that is enabled beside no kprobe");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
