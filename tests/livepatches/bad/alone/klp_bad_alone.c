// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_alone.c - a livepatch that wants to be the only one
 *
 * Purpose: mark /proc/version.
 *
 * Fault: it refuses to be loaded where there is another livepatch, whatever
 * that changes.
 */

#include <linux/fs.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/namei.h>
#include <linux/path.h>
#include <linux/seq_file.h>
#include <linux/stat.h>
#include <linux/utsname.h>

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
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

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

static int __init klp_bad_alone_init(void)
{
	int err = livepatches();

	if (err)
		return err < 0 ? err : -EBUSY;
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_alone_exit(void)
{
}

module_init(klp_bad_alone_init);
module_exit(klp_bad_alone_exit);
MODULE_DESCRIPTION("Livepatch that wants to be the only one");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
