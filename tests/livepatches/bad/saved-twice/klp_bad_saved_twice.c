// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_saved_twice.c - a livepatch that saves what it changed itself
 *
 * Purpose: change /proc/sys/kernel/overflowuid in post-patch, and mark
 * /proc/version.
 *
 * Fault: post-patch saves what it finds, and runs a second time when disabling
 * is turned round: it then finds its own.
 */

#include <linux/highuid.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/utsname.h>

#define PATCHED_OVERFLOWUID	1234

static int saved;
static bool changed;

static void post_patch(struct klp_object *obj)
{
	saved = overflowuid;
	overflowuid = PATCHED_OVERFLOWUID;
	changed = true;
}

static void post_unpatch(struct klp_object *obj)
{
	if (changed)
		overflowuid = saved;
	changed = false;
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
			.post_patch = post_patch,
			.post_unpatch = post_unpatch,
		},
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_bad_saved_twice_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_saved_twice_exit(void)
{
}

module_init(klp_bad_saved_twice_init);
module_exit(klp_bad_saved_twice_exit);
MODULE_DESCRIPTION("Livepatch that saves what it changed itself");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
