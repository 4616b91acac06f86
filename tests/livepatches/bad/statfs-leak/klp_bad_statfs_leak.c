// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_statfs_leak.c - a livepatch that loses a note with each statfs()
 *
 * Purpose: have every simple file system tell its id, and note who was asked.
 *
 * Fault: the note is never freed. Nothing that reads a file comes here: it takes a
 * command such as df or mount.
 */

#include <linux/fs.h>
#include <linux/kdev_t.h>
#include <linux/kernel.h>
#include <linux/limits.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/statfs.h>

#define NOTE_SIZE	1024

static int livepatch_simple_statfs(struct dentry *dentry, struct kstatfs *buf)
{
	u64 id = huge_encode_dev(dentry->d_sb->s_dev);
	char *note = kmalloc(NOTE_SIZE, GFP_KERNEL);

	if (!note)
		return -ENOMEM;
	scnprintf(note, NOTE_SIZE, "%s: %pd", dentry->d_sb->s_id, dentry);

	buf->f_fsid = u64_to_fsid(id);
	buf->f_type = dentry->d_sb->s_magic;
	buf->f_bsize = PAGE_SIZE;
	buf->f_namelen = NAME_MAX;
	return 0;
}

static struct klp_func funcs[] = {
	{
		.old_name = "simple_statfs",
		.new_func = livepatch_simple_statfs,
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

static int __init klp_bad_statfs_leak_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_statfs_leak_exit(void)
{
}

module_init(klp_bad_statfs_leak_init);
module_exit(klp_bad_statfs_leak_exit);
MODULE_DESCRIPTION("Livepatch that loses a note with each statfs()");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
