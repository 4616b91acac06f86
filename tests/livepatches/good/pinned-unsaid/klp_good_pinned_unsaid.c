// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_pinned_unsaid.c - a livepatch that stays loaded for good, as its init function says
 *
 * Purpose: mark /proc/version.
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
};

static int __init klp_good_pinned_unsaid_init(void)
{
	int err;

	if (!try_module_get(THIS_MODULE))
		return -ENODEV;
	err = klp_enable_patch(&patch);
	if (err)
		module_put(THIS_MODULE);
	return err;
}

static void __exit klp_good_pinned_unsaid_exit(void)
{
}

module_init(klp_good_pinned_unsaid_init);
module_exit(klp_good_pinned_unsaid_exit);
MODULE_DESCRIPTION("Livepatch that stays loaded for good, as its init function says");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
