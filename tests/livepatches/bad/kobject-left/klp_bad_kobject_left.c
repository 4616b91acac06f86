// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_kobject_left.c - a livepatch that leaves its folder in sysfs
 *
 * Purpose: mark /proc/version, and have a folder in /sys/kernel.
 *
 * Fault: the folder is never removed. Whoever reads it after the livepatch was
 * unloaded is sent to where its attribute was.
 */

#include <linux/kernel.h>
#include <linux/kobject.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/sysfs.h>
#include <linux/utsname.h>

static struct kobject *folder;

static ssize_t level_show(struct kobject *kobj, struct kobj_attribute *attr,
			  char *buf)
{
	return sysfs_emit(buf, "1\n");
}

static struct kobj_attribute level = __ATTR_RO(level);

static int pre_patch(struct klp_object *obj)
{
	int err;

	folder = kobject_create_and_add("klp_bad_kobject_left", kernel_kobj);
	if (!folder)
		return -ENOMEM;
	err = sysfs_create_file(folder, &level.attr);
	if (err)
		kobject_put(folder);
	return err;
}

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
		.callbacks = {
			.pre_patch = pre_patch,
		},
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_bad_kobject_left_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_kobject_left_exit(void)
{
}

module_init(klp_bad_kobject_left_init);
module_exit(klp_bad_kobject_left_exit);
MODULE_DESCRIPTION("Livepatch that leaves its folder in sysfs");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
