// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_kprobe_beside.c - a livepatch that has a kprobe of its own
 *
 * Purpose: mark /proc/version, and have a kprobe on what shows it, beside
 * whatever others there are.
 */

#include <linux/kernel.h>
#include <linux/kprobes.h>
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
	return register_kprobe(&probe);
}

static void post_unpatch(struct klp_object *obj)
{
	unregister_kprobe(&probe);
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
			.post_unpatch = post_unpatch,
		},
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_good_kprobe_beside_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_good_kprobe_beside_exit(void)
{
}

module_init(klp_good_kprobe_beside_init);
module_exit(klp_good_kprobe_beside_exit);
MODULE_DESCRIPTION("Livepatch that has a kprobe of its own");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
