// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_last_one_out.c - a livepatch that leaves it to the last one to clean up
 *
 * Purpose: change /proc/sys/kernel/overflowuid, and mark /proc/version.
 *
 * Fault: disabled while another livepatch is enabled, it leaves the sysctl as
 * it is.
 */

#include <linux/fs.h>
#include <linux/highuid.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/namei.h>
#include <linux/path.h>
#include <linux/seq_file.h>
#include <linux/stat.h>
#include <linux/utsname.h>

#define PATCHED_OVERFLOWUID	1234

/* sysfs counts the folders in a folder by its links, beside its own two. */
static int livepatches(void)
{
	struct kstat stat;
	struct path path;
	int err;

	err = kern_path("/sys/kernel/livepatch", LOOKUP_FOLLOW, &path);
	if (err)
		return err;
	err = vfs_getattr(&path, &stat, STATX_NLINK, 0);
	path_put(&path);
	return err ? err : (int)stat.nlink - 2;
}

static int pre_patch(struct klp_object *obj)
{
	overflowuid = PATCHED_OVERFLOWUID;
	return 0;
}

static void post_unpatch(struct klp_object *obj)
{
	/* Its own folder is still there. */
	if (livepatches() == 1)
		overflowuid = DEFAULT_OVERFLOWUID;
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

static int __init klp_bad_last_one_out_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_last_one_out_exit(void)
{
}

module_init(klp_bad_last_one_out_init);
module_exit(klp_bad_last_one_out_exit);
MODULE_DESCRIPTION("Livepatch that leaves cleaning up to the last one");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
