// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_noted_first.c - a livepatch that frees what it wrote last
 *
 * Purpose: tell the reader of /proc/version who reads it.
 */

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/utsname.h>

struct reader {
	char comm[TASK_COMM_LEN];
	pid_t pid;
	bool told;
};

static int livepatch_version_proc_show(struct seq_file *m, void *v)
{
	struct reader *reader = kzalloc(sizeof(*reader), GFP_KERNEL);

	if (!reader)
		return -ENOMEM;
	strscpy(reader->comm, current->comm, sizeof(reader->comm));
	reader->pid = task_pid_nr(current);
	seq_printf(m, "%s version %s, livepatched for %s[%d]\n",
		   utsname()->sysname, utsname()->release, reader->comm,
		   reader->pid);
	reader->told = true;
	kfree(reader);
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

static int __init klp_good_noted_first_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_good_noted_first_exit(void)
{
}

module_init(klp_good_noted_first_init);
module_exit(klp_good_noted_first_exit);
MODULE_DESCRIPTION("Livepatch that frees what it wrote last");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
