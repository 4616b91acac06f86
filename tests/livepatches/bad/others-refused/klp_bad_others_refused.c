// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_others_refused.c - a livepatch that no other can replace
 *
 * Purpose: mark /proc/version, and be told of modules that are loaded.
 *
 * Fault: it refuses every livepatch among them, so that nothing can take its
 * place.
 */

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/notifier.h>
#include <linux/seq_file.h>
#include <linux/utsname.h>

static int livepatch_version_proc_show(struct seq_file *m, void *v)
{
	seq_printf(m, "%s version %s, livepatched\n",
		   utsname()->sysname, utsname()->release);
	return 0;
}

static int modules_change(struct notifier_block *block, unsigned long state,
			  void *data)
{
	struct module *mod = data;

	if (state == MODULE_STATE_COMING && is_livepatch_module(mod))
		return notifier_from_errno(-EBUSY);
	return NOTIFY_OK;
}

static struct notifier_block watcher = {
	.notifier_call = modules_change,
};

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
};

static int __init klp_bad_others_refused_init(void)
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

static void __exit klp_bad_others_refused_exit(void)
{
	unregister_module_notifier(&watcher);
}

module_init(klp_bad_others_refused_init);
module_exit(klp_bad_others_refused_exit);
MODULE_DESCRIPTION("Livepatch that no other can replace");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
