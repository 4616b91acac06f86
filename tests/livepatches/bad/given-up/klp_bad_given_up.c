// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_given_up.c - a livepatch that gives up when modules go
 *
 * Purpose: mark /proc/version until a module goes that it depends on.
 *
 * Fault: a module that goes while its transition runs, whichever that is, is
 * taken for one.
 */

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/notifier.h>
#include <linux/seq_file.h>
#include <linux/utsname.h>

static bool moving, given_up;

static int livepatch_version_proc_show(struct seq_file *m, void *v)
{
	seq_printf(m, "%s version %s%s\n", utsname()->sysname, utsname()->release,
		   given_up ? "" : ", livepatched");
	return 0;
}

static int modules_change(struct notifier_block *block, unsigned long state,
			  void *data)
{
	if (state == MODULE_STATE_GOING && moving)
		given_up = true;
	return NOTIFY_OK;
}

static struct notifier_block watcher = {
	.notifier_call = modules_change,
};

static int pre_patch(struct klp_object *obj)
{
	moving = true;
	return 0;
}

static void post_patch(struct klp_object *obj)
{
	moving = false;
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
			.post_patch = post_patch,
		},
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_bad_given_up_init(void)
{
	int err;

	err = register_module_notifier(&watcher);
	if (err)
		return err;
	err = klp_enable_patch(&patch);
	if (err)
		unregister_module_notifier(&watcher);
	return err;
}

static void __exit klp_bad_given_up_exit(void)
{
	unregister_module_notifier(&watcher);
}

module_init(klp_bad_given_up_init);
module_exit(klp_bad_given_up_exit);
MODULE_DESCRIPTION("Livepatch that gives up when modules go");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
