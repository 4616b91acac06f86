// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_reference_put.c - a livepatch that holds itself while it is enabled
 *
 * Purpose: mark /proc/version, and hold a reference of its own module between
 * post-patch and pre-unpatch.
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

static void post_patch(struct klp_object *obj)
{
	__module_get(THIS_MODULE);
}

static void pre_unpatch(struct klp_object *obj)
{
	module_put(THIS_MODULE);
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
			.post_patch = post_patch,
			.pre_unpatch = pre_unpatch,
		},
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_good_reference_put_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_good_reference_put_exit(void)
{
}

module_init(klp_good_reference_put_init);
module_exit(klp_good_reference_put_exit);
MODULE_DESCRIPTION("Livepatch that holds itself while it is enabled");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
