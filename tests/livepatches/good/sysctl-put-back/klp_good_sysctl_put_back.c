// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_sysctl_put_back.c - a livepatch that puts back what its function changed
 *
 * Purpose: mark /proc/version, and set /proc/sys/fs/overflowuid when it is read.
 * Nobody is in the new function any more when post-unpatch sets it back.
 */

#include <linux/highuid.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/utsname.h>

#define PATCHED_OVERFLOWUID	1234

static int saved;

static int pre_patch(struct klp_object *obj)
{
	saved = fs_overflowuid;
	return 0;
}

static void post_unpatch(struct klp_object *obj)
{
	fs_overflowuid = saved;
}

static int livepatch_version_proc_show(struct seq_file *m, void *v)
{
	WRITE_ONCE(fs_overflowuid, PATCHED_OVERFLOWUID);
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

static int __init klp_good_sysctl_put_back_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_good_sysctl_put_back_exit(void)
{
}

module_init(klp_good_sysctl_put_back_init);
module_exit(klp_good_sysctl_put_back_exit);
MODULE_DESCRIPTION("Livepatch that puts back what its function changed");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
