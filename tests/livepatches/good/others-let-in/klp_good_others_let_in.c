// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_others_let_in.c - a livepatch that others can replace
 *
 * Purpose: mark /proc/version, and be told of modules that are loaded.
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
		pr_info("not alone: %s\n", mod->name);
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

static int __init klp_good_others_let_in_init(void)
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

static void __exit klp_good_others_let_in_exit(void)
{
	unregister_module_notifier(&watcher);
}

module_init(klp_good_others_let_in_init);
module_exit(klp_good_others_let_in_exit);
MODULE_DESCRIPTION("Livepatch that others can replace");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
