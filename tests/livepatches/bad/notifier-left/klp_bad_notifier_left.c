// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_notifier_left.c - a livepatch that leaves its notifier on a list
 *
 * Purpose: mark /proc/version, and count what befalls network devices.
 *
 * Fault: its notifier stays on the kernel's list when the livepatch is unloaded,
 * and is called when a network device comes or goes.
 */

#include <linux/atomic.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/notifier.h>
#include <linux/seq_file.h>
#include <linux/utsname.h>

static atomic_t seen;

static int device_event(struct notifier_block *block, unsigned long event,
			void *info)
{
	atomic_inc(&seen);
	return NOTIFY_DONE;
}

static struct notifier_block watcher = {
	.notifier_call = device_event,
};

static int pre_patch(struct klp_object *obj)
{
	return register_netdevice_notifier(&watcher);
}

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
		.callbacks = {
			.pre_patch = pre_patch,
		},
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_bad_notifier_left_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_notifier_left_exit(void)
{
}

module_init(klp_bad_notifier_left_init);
module_exit(klp_bad_notifier_left_exit);
MODULE_DESCRIPTION("Livepatch that leaves its notifier on a list");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
