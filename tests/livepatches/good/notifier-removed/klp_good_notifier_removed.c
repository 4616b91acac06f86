// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_notifier_removed.c - a livepatch that takes its notifier from the list
 *
 * Purpose: mark /proc/version, and count what befalls network devices.
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

static void post_unpatch(struct klp_object *obj)
{
	unregister_netdevice_notifier(&watcher);
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
			.post_unpatch = post_unpatch,
		},
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_good_notifier_removed_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_good_notifier_removed_exit(void)
{
}

module_init(klp_good_notifier_removed_init);
module_exit(klp_good_notifier_removed_exit);
MODULE_DESCRIPTION("Livepatch that takes its notifier from the list");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
